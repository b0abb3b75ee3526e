"""What a worker does to a task, as far as its subscribers see it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from infra.bus import Delta, Kind
from infra.services import Services
from infra.tasks import records
from infra.tasks.log import Event, TaskLog
from infra.tasks.transitions import Lease
from tests.world import World


class Silence:
    """A publisher whose every publish is lost."""

    def publish_events(self, events: Sequence[Event]) -> None:
        del events


class Writer:
    """Holds the lease of a fresh running task, whose events so far are `task_created` and `task_started`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.services: Services = world.services
        self.lease: Lease = world.claimed()
        self.last_seq = 2
        self._mute = TaskLog(self.services.database, Silence())

    @property
    def task_id(self) -> UUID:
        return self.lease.task_id

    def progress(self, count: int = 1, *, published: bool = True, size: int = 1) -> int:
        """Append `count` events, each in its own transaction. Returns the last `seq`."""
        log = self.services.tasks if published else self._mute
        for _ in range(count):
            with log.transaction() as tx:
                records.append_event(tx, self.lease, ("build_progress", {"stage": "x" * size, "percent": 1}))
            self.last_seq += 1
        return self.last_seq

    def history(self, count: int) -> int:
        """Append `count` events at once, unpublished."""
        with self._mute.transaction() as tx:
            draft = ("build_progress", {"stage": "past", "percent": 1})
            records.append_event(tx, self.lease, *[draft] * count)
        self.last_seq += count
        return self.last_seq

    def message(self, message_id: str, text: str, role: str = "assistant") -> int:
        data = {"message_id": message_id, "role": role, "text": text, "stop_reason": None}
        with self.services.tasks.transaction() as tx:
            records.append_event(tx, self.lease, ("message", data))
        self.last_seq += 1
        return self.last_seq

    def delta(self, message_id: str, text: str, *, part: int = 0, kind: Kind = "text") -> None:
        self.services.bus.publish_delta(Delta(self.task_id, message_id, part, kind, text))

    def flush(self) -> None:
        """Returns once Redis has everything."""
        assert self.services.bus.outbox.flush(10)
