"""The reads of one subscriber: a job of the `Readers` that is queued at most once, and only while it is worth it.

    IDLE ──── `queue`, and there is work ────► QUEUED ──── a reader takes it ────► READING
      ▲ ▲                                      ▲   │                               │  │  │
      │ └──── nothing to do any more ──────────│───┘                               │  │  │
      │                                        └── there is more, or Postgres ─────┘  │  │
      │                                            does not answer: try it again      │  │
      └──── done ─────────────────────────────────────────────────────────────────────┘  │
                              BROKEN ◄──── a bug: the socket is closed ──────────────────┘

There is work while the owner wants to read, the client has room for what is read, and nothing has ended. Who moves it:

* IDLE → QUEUED: anybody, with the lock held, after changing what the owner wants (`queue`); the socket's writer when
  a client that had no room has some again (`drained`). In every other state these do nothing: whoever leaves READING
  looks at what is wanted again under the lock, so what came meanwhile is not missed.
* QUEUED, READING → anything: one reader thread, as the job stands in the queue once. Without work it takes nothing.
* BROKEN is for good. The owner's connection is closing, and its client comes back on another one.

`end` is no state: the connection ends the job in any of them, and a read under way finishes for nothing. A reader
thread does not die: `Readers` catches what a job raises. A process that dies takes the socket along, and the client
subscribes again elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from api.gateway.close_codes import Close
from api.gateway.readers import Readers
from infra.errors import UnavailableError


class Outlet(Protocol):
    """What a job must know of the `Socket` that it reads for."""

    @property
    def closing(self) -> bool: ...

    def has_room(self) -> bool: ...

    def close(self, reason: int, message: str) -> None: ...


class ReadJob:
    """`wanted` is asked with `lock` held; `read` does one bounded piece of work, and is called without it.

    A `read` that raises UnavailableError is called again later, so it must want what it wanted before.
    """

    def __init__(
        self, *, wanted: Callable[[], bool], read: Callable[[], None], socket: Outlet, readers: Readers
    ) -> None:
        self.lock = threading.Lock()
        """Guards the owner's state, too."""
        self.ended = False
        self._wanted = wanted
        self._read = read
        self._socket = socket
        self._readers = readers
        self._idle = True

    def queue(self) -> None:
        """To be called, with the lock held, whenever there may be something to read."""
        if self._idle and self._has_work():
            self._idle = False
            self._readers.submit(self._run)

    def drained(self) -> None:
        """The client caught up with what it was sent."""
        with self.lock:
            self.queue()

    def end(self) -> None:
        """Nothing may be sent for the owner after this returns: it looks at `ended`, with the lock held."""
        with self.lock:
            self.ended = True

    def _has_work(self) -> bool:
        # Without room it is `drained` that comes back to this.
        return self._wanted() and not self.ended and not self._socket.closing and self._socket.has_room()

    def _goes_on(self) -> bool:
        with self.lock:
            self._idle = not self._has_work()
            return not self._idle

    def _run(self) -> bool:
        if not self._goes_on():
            return False
        try:
            self._read()
        except UnavailableError:
            raise  # the reader that runs this puts it off
        except Exception:
            self._socket.close(*Close.INTERNAL)
            raise
        return self._goes_on()
