"""What happens after a crash. Any worker sweeps; `SKIP LOCKED` keeps them out of each other's way.

Lost workers' tasks go back to pending; cancels that nobody can confirm any more are carried out; wake-ups that may
be lost are sent again, while the queue is short; what no running task owns of this host's sandboxes is removed. And
what has to be done now and then by somebody: old rows are forgotten, secrets are brought under the first key.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack

from kombu.exceptions import OperationalError
from redis import RedisError
from sqlalchemy import Connection

from infra.errors import FarhandError
from infra.housekeeping import forget_old
from infra.queue import AGENTS, queue_length
from infra.rotation import rotate_secrets
from infra.services import Services
from infra.tasks import ownership, transitions, turns
from workers.sandbox.base import Driver
from workers.sandbox.hold import held_ids, unless_held
from workers.setups import SetupStore

log = logging.getLogger(__name__)

SWEEP_S = 3.0
_BATCH = 200
_LEFTOVERS_EVERY = 10
_SECRETS_EVERY = 1200
"""Rounds: as a worker starts, and then every hour, for what the API encrypted before it knew the new key."""


class Sweeper:
    """`may_act`: whether this worker's own heartbeats succeeded for a full ttl; else it can't tell who is dead."""

    def __init__(self, services: Services, driver: Driver, *, may_act: Callable[[], bool]) -> None:
        self._services = services
        self._driver = driver
        self._may_act = may_act
        self._run_dir = services.settings.run_dir
        self._scratch = self._run_dir / "t"
        self._setups = SetupStore(services.settings)

    def run(self) -> None:
        """For ever, on a thread of its own."""
        rounds = 0
        while True:
            self._try(self.take_back)
            self._try(self.send_again)
            if rounds % _LEFTOVERS_EVERY == 0:
                self._try(self.remove_leftovers)
                self._try(self.forget_old)
                self._try(self._setups.sweep)
            if rounds % _SECRETS_EVERY == 0:
                self._try(self.rotate_secrets)
            rounds += 1
            time.sleep(SWEEP_S)

    def take_back(self) -> None:
        """Give the tasks of lost workers to others, if we can tell who is lost."""
        if not self._may_act():
            return
        with self._services.tasks.transaction() as tx:
            taken = ownership.sweep_lost_workers(tx)
            transitions.cancel_unowned(tx)
        for task in taken:
            log.warning("took a task from a lost worker", extra={"action": "task_swept", "task_id": task.id})

    def forget_old(self) -> None:
        """Rows that are kept for some days only."""
        with self._services.database.begin() as connection:
            forget_old(connection)

    def rotate_secrets(self) -> None:
        """Nothing stays under a key of the ring that is to go."""
        rotate_secrets(self._services.database, self._services.keys)

    def remove_leftovers(self) -> None:
        """Remove what sandboxes of this host have left that no running task owns, and no live worker holds."""
        scratch = (path.name for path in self._scratch.glob("*"))
        found = {*self._driver.leftovers(), *scratch, *held_ids(self._run_dir)}
        if not found:
            return
        with ExitStack() as holds:
            # Before the rows are read: what was given up by its holder is named by a row then, or is nobody's.
            free = {name for name in found if holds.enter_context(unless_held(self._run_dir, name))}
            with self._services.database.begin() as connection:
                orphans = free - ownership.sandboxes_in_use(connection)
            for sandbox_id in orphans:
                log.warning(
                    "removing a sandbox that nobody owns", extra={"action": "sandbox_orphan", "sandbox": sandbox_id}
                )
                self._driver.remove(sandbox_id)
                shutil.rmtree(self._scratch / sandbox_id, ignore_errors=True)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (FarhandError, RedisError, OperationalError) as error:
            log.warning("sweep failed: %s", error, extra={"action": "sweep_failed"})
        except Exception:
            log.exception("sweep broke", extra={"action": "sweep_broke"})

    def send_again(self) -> None:
        """Send the wake-ups that are not sent or may be lost, unless another sweeper does so just now."""
        with self._services.database.begin() as connection:
            if not turns.may_send(connection):
                return
            room = min(self._room(connection), _BATCH)
            if room <= 0:
                return
            limit = self._services.settings.max_concurrent_tasks
            due = turns.due(connection, limit=room, user_limit=limit)
            self._services.wake_ups.send_now(due)
            turns.mark_sent(connection, due)

    def _room(self, connection: Connection) -> int:
        """How many wake-ups may be added: the queue stays no longer than twice the live slots."""
        slots = ownership.live_slots(connection)
        return 2 * slots - queue_length(self._services.celery, AGENTS)
