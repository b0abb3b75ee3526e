"""One socket's subscription to one task: joins what the hub tells with what Postgres has, and feeds the socket.

The algorithm, with its corner cases, is in `resume` (events) and `parts` (deltas), which are pure. Here are the lock,
the reads and the socket. The hub's thread only ever puts frames into the socket's queue; all reading is done by
`Readers`, one job at a time for each subscription, and only while the client keeps up with what it was sent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from uuid import UUID

import redis

from api.gateway import resume as events
from api.gateway.close_codes import Close
from api.gateway.parts import PartFrame, Parts
from api.gateway.readers import Readers
from api.gateway.resume import Resume
from api.gateway.socket import Socket
from api.gateway.wire import EventFrame, event_frame, partial_frame
from infra.bus import task_channel
from infra.errors import FarhandError, UnavailableError
from infra.services import Services
from infra.tasks.log import read_events

log = logging.getLogger(__name__)

FIRST_PAGE_EVENTS = 32


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
        self._readers = readers
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._resume: Resume[EventFrame] = Resume(after)
        self._parts = Parts()
        self._page_events = FIRST_PAGE_EVENTS
        self._job_is_queued = False
        self._ended = False

    # ---- by the hub -------------------------------------------------------------------------------------------

    def acknowledged(self) -> None:
        with self._lock:
            self._resume.acknowledged()
            self._parts.lost()
            self._queue_job()

    def event(self, frame: EventFrame) -> None:
        with self._lock:
            self._hand_on(self._resume.received(frame.seq, frame, len(frame.data)))
            self._queue_job()

    def delta(self, frame: PartFrame) -> None:
        with self._lock:
            if self._resume.state is not events.State.LIVE or not self._socket.has_room():
                self._parts.lost()
            elif self._parts.delta(frame):
                self._send(frame.data)
            self._queue_job()

    def noticed(self, last_seq: int) -> None:
        with self._lock:
            self._resume.noticed(last_seq)
            self._queue_job()

    def gone(self, error: FarhandError) -> None:
        self._on_gone(self, error)

    # ---- by the connection ------------------------------------------------------------------------------------

    def drained(self) -> None:
        """The client caught up with what it was sent."""
        with self._lock:
            self._queue_job()

    def end(self) -> None:
        """Nothing is sent for this subscription after this returns."""
        with self._lock:
            self._ended = True

    # ---- by the readers ---------------------------------------------------------------------------------------

    def _queue_job(self) -> None:
        if not self._job_is_queued and self._has_work():
            self._job_is_queued = True
            self._readers.submit(self._work)

    def _has_work(self) -> bool:
        wanted = self._resume.state is events.State.READING or (
            self._resume.state is events.State.LIVE and self._parts.wanted
        )
        # Without room it is `drained` that comes back to this.
        return wanted and not self._ended and not self._socket.closing and self._socket.has_room()

    def _work(self) -> bool:
        """One page, or one fetch of what is half-written. Whether there is more to do."""
        with self._lock:
            self._job_is_queued = self._has_work()
            reading = self._resume.state is events.State.READING
        if not self._job_is_queued:
            return False
        try:
            self._read_page() if reading else self._fetch_parts()
        except UnavailableError:
            raise  # the reader that runs this puts it off
        except Exception:
            self._socket.close(*Close.INTERNAL)
            raise
        with self._lock:
            self._job_is_queued = self._has_work()
            return self._job_is_queued

    def _read_page(self) -> None:
        with self._lock:
            after = self._resume.begin_read()
        limit = self._page_events
        with self._services.database.read() as connection:
            found = read_events(connection, self.task_id, after=after, limit=limit)
        frames = [event_frame(event) for event in found]
        self._choose_page_size(frames)
        with self._lock:
            all_taken = self._take(frames)
            self._hand_on(self._resume.page_ends(complete=all_taken and len(frames) < limit))

    def _take(self, frames: list[EventFrame]) -> bool:
        """Hand on a page as far as the client has room for it. Whether it had for all."""
        for frame in frames:
            if not self._socket.has_room():
                return False
            if self._resume.read(frame.seq):
                self._hand_on([frame])
        return True

    def _choose_page_size(self, frames: list[EventFrame]) -> None:
        """Pages of about `page_bytes`: events have a few hundred bytes, or a few million."""
        if not frames:
            return
        limits = self._socket.limits
        size = sum(len(frame.data) for frame in frames)
        fitting = len(frames) * limits.page_bytes // size
        self._page_events = max(1, min(fitting, 4 * self._page_events, limits.page_events))

    def _fetch_parts(self) -> None:
        with self._lock:
            self._parts.begin_fetch()
        try:
            found = [partial_frame(partial) for partial in self._services.bus.partials(self.task_id)]
        except (redis.RedisError, KeyError, TypeError, ValueError) as error:
            log.warning("can't fetch what is half-written: %r", error, extra={"action": "partials_failed"})
            with self._lock:
                self._parts.fetch_failed()
            return
        with self._lock:
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
        if not self._ended:
            self._socket.send_frame(data)
