"""One socket's subscription to one task: joins what the hub tells with what Postgres has, and feeds the socket.

The algorithm, with its corner cases, is in `resume` (events) and `parts` (deltas), which are pure. Here are the
reads and the socket. The hub's thread only ever puts frames into the socket's queue; all reading is done by
`Readers`, as one job (`read_job`, which has the lock) and only while the client keeps up with what it was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

import redis

from api.gateway import resume as events
from api.gateway.parts import PartFrame, Parts
from api.gateway.read_job import ReadJob
from api.gateway.readers import Readers
from api.gateway.resume import Resume
from api.gateway.socket import Socket
from api.gateway.wire import EventFrame, event_frame, partial_frame
from infra.bus import task_channel
from infra.errors import FarhandError
from infra.services import Services
from infra.tasks.log import read_events

log = logging.getLogger(__name__)


class Subscription:
    """A `TaskListener`. It starts with the hub's first call and ends with `end`.

    `on_gone` is called, without any lock held, when the task can't be followed any more.
    """

    def __init__(
        self,
        task_id: UUID,
        after: int,
        *,
        socket: Socket,
        services: Services,
        readers: Readers,
        on_gone: Callable[[Subscription, FarhandError], None],
    ) -> None:
        self.task_id = task_id
        self.channel = task_channel(task_id)
        self._socket = socket
        self._services = services
        self._on_gone = on_gone
        self._job = ReadJob(wanted=self._wants_read, read=self._read, socket=socket, readers=readers)
        self._resume: Resume[EventFrame] = Resume(after)
        self._parts = Parts()

    # ---- by the hub -------------------------------------------------------------------------------------------

    def acknowledged(self) -> None:
        with self._job.lock:
            self._resume.acknowledged()
            self._parts.lost()
            self._job.queue()

    def event(self, frame: EventFrame) -> None:
        with self._job.lock:
            self._hand_on(self._resume.received(frame.seq, frame, len(frame.data)))
            self._job.queue()

    def delta(self, frame: PartFrame) -> None:
        with self._job.lock:
            if self._resume.state is not events.State.LIVE or not self._socket.has_room():
                self._parts.lost()
            elif self._parts.delta(frame):
                self._send(frame.data)
            self._job.queue()

    def noticed(self, last_seq: int) -> None:
        with self._job.lock:
            self._resume.noticed(last_seq)
            self._job.queue()

    def gone(self, error: FarhandError) -> None:
        self._on_gone(self, error)

    # ---- by the connection ------------------------------------------------------------------------------------

    def drained(self) -> None:
        """The client caught up with what it was sent."""
        self._job.drained()

    def end(self) -> None:
        """Nothing is sent for this subscription after this returns."""
        self._job.end()

    # ---- by the readers ---------------------------------------------------------------------------------------

    def _wants_read(self) -> bool:
        return self._resume.state is events.State.READING or (
            self._resume.state is events.State.LIVE and self._parts.wanted
        )

    def _read(self) -> None:
        """One page, or one fetch of what is half-written."""
        with self._job.lock:
            reading = self._resume.state is events.State.READING
        if reading:
            self._read_page()
        else:
            self._fetch_parts()

    def _read_page(self) -> None:
        with self._job.lock:
            after = self._resume.begin_read()
        limits = self._socket.limits
        with self._services.database.read() as connection:
            found = read_events(
                connection, self.task_id, after=after, limit=limits.page_events, max_bytes=limits.page_bytes
            )
        frames = [event_frame(event) for event in found.events]
        with self._job.lock:
            all_taken = self._take(frames)
            self._hand_on(self._resume.page_ends(complete=all_taken and not found.more))

    def _take(self, frames: list[EventFrame]) -> bool:
        """Hand on a page as far as the client has room for it. Whether it had for all."""
        for frame in frames:
            if not self._socket.has_room():
                return False
            if self._resume.read(frame.seq):
                self._hand_on([frame])
        return True

    def _fetch_parts(self) -> None:
        with self._job.lock:
            self._parts.begin_fetch()
        try:
            found = [partial_frame(partial) for partial in self._services.bus.partials(self.task_id)]
        except (redis.RedisError, KeyError, TypeError, ValueError) as error:
            log.warning("can't fetch what is half-written: %r", error, extra={"action": "partials_failed"})
            with self._job.lock:
                self._parts.fetch_failed()
            return
        with self._job.lock:
            if self._resume.state is not events.State.LIVE:
                self._parts.lost()
            for frame in self._parts.fetched(found):
                self._send(frame.data)

    # ---- to the socket, always with the lock held: its order is the order on the wire -------------------------

    def _hand_on(self, frames: list[EventFrame]) -> None:
        for frame in frames:
            self._parts.event(frame.type, frame.message_id)
            self._send(frame.data)

    def _send(self, data: bytes) -> None:
        if not self._job.ended:
            self._socket.send_frame(data)
