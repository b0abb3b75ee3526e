"""How a subscriber gets every event of a task exactly once and in order, whatever is lost on the way (G4).

The client names the last `seq` that it applied. Postgres has every event; Redis only says early that there is one,
and may lose, repeat or reorder what it says. A position and three states:

                 acknowledged, or noticed                   a page ends, and nothing is missing
    BUFFERING ────────────────────────────► READING ──────────────────────────────────────────► LIVE
                                              ▲  │ a page ends, and something is missing          │
                                              └──┘◄───────────────────────────────────────────────┘
                                                     a hole, or noticed that Postgres has more

    BUFFERING  Redis has not acknowledged our SUBSCRIBE: what is published now may pass us by, so reading must wait.
    READING    Pages of `seq > position` are read from Postgres. What Redis says meanwhile is kept in the buffer.
    LIVE       What Redis says is handed on at once, as long as it is the next event.

Only the next event (`position + 1`) is ever handed on, in every state: that alone gives order, and at most once. At
least once comes from knowing what exists (`newest`, from any source) and not resting in LIVE below it:

* Crash between commit and publish, a lost publish, Redis gone: every second the hub compares the position of the
  doorbell with `tasks.last_seq` and tells (`noticed`). BUFFERING ends by that too, so a dead Redis delays, not stops.
* Redis restarted, or dropped us as a slow subscriber: the hub subscribes again, compares at once and tells.
* A hole while live (3, then 5): back to READING. The 5 waits in the buffer; it is committed, so a read that begins
  now finds 4.
* An event that comes from Redis and from Postgres: whichever is second is not the next one, and is dropped.
* The buffer overflows (a long catch-up of a busy task): it is emptied and `newest` remembers how far to read.
* A read began before an event was committed that Redis told us of during the read: something is missing at the end
  of the page, so it is read again. A read that began after it and did not find it proves that there is no such event
  (a database that was restored, garbage on the channel): then Postgres is believed, or we would read for ever.
* 100,000 events: pages. A client that does not keep up with them ends its page early (`complete=False`) and gets the
  next one when it has drained. Memory is bounded by a page and the buffer.
* Gateway restart, half-open first socket, a phone that slept: nothing of this is kept. The client subscribes anew
  with what it applied, which may be less than what was sent.

Not thread-safe: its owner locks. No clock, no I/O: see tests/unit/gateway/test_resume.py for every interleaving.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")

BUFFER_EVENTS = 256
BUFFER_BYTES = 2**20


class State(Enum):
    BUFFERING = "buffering"
    READING = "reading"
    LIVE = "live"


class Resume(Generic[T]):
    """The position of one subscriber in one task's log. `T` is what an event is handed on as."""

    def __init__(self, after: int) -> None:
        self.state = State.BUFFERING
        self.position = after
        """The `seq` that was handed on last."""
        self._newest = after
        self._known_at_read = after
        self._buffer: dict[int, T] = {}
        self._buffer_bytes = 0

    def acknowledged(self) -> None:
        """From now on Redis tells us what is published, until it breaks."""
        if self.state is State.BUFFERING:
            self.state = State.READING

    def noticed(self, last_seq: int) -> None:
        """Postgres has events up to `last_seq`."""
        self._newest = max(self._newest, last_seq)
        if self.state is State.BUFFERING or self._newest > self.position:
            self.state = State.READING

    def received(self, seq: int, event: T, size: int) -> list[T]:
        """Redis says that there is an event `seq` of `size` bytes. Returns what is to be handed on now."""
        self._newest = max(self._newest, seq)
        if seq <= self.position:
            return []
        if self.state is State.LIVE and seq == self.position + 1:
            self.position = seq
            return [event]
        if self.state is State.LIVE:
            self.state = State.READING
        self._keep(seq, event, size)
        return []

    def begin_read(self) -> int:
        """A read of Postgres begins now, in READING. Returns the `after` to read from."""
        self._known_at_read = self._newest
        return self.position

    def read(self, seq: int) -> bool:
        """The read found `seq`. Whether to hand it on."""
        if seq != self.position + 1:
            return False
        self.position = seq
        return True

    def page_ends(self, *, complete: bool) -> list[T]:
        """All of a page was read. `complete`: and Postgres had no more. Returns what is to be handed on after it."""
        if not complete:
            return []
        following = self._take_following()
        if self.position >= self._newest:
            self.state = State.LIVE
        elif self.position < self._known_at_read:
            self._newest = self.position
            self._empty_buffer()
            self.state = State.LIVE
        return following

    def _keep(self, seq: int, event: T, size: int) -> None:
        if len(self._buffer) >= BUFFER_EVENTS or self._buffer_bytes + size > BUFFER_BYTES:
            self._empty_buffer()
            return
        self._buffer[seq] = event
        self._buffer_bytes += size

    def _take_following(self) -> list[T]:
        following = []
        for seq in sorted(self._buffer):
            if seq == self.position + 1:
                following.append(self._buffer[seq])
                self.position = seq
        self._empty_buffer()
        return following

    def _empty_buffer(self) -> None:
        self._buffer.clear()
        self._buffer_bytes = 0
