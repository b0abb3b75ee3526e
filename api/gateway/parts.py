"""What one subscriber has of the messages that are still being written (design section 7).

A message is written in parts (content blocks); each part is a row of deltas 0, 1, 2 … Deltas may get lost, and the
client may be too slow for them; then a `partial`, the text so far, takes the place of all before it:

    STALE ──── begin_fetch ────► FETCHING ──── fetched ────► CURRENT
      ▲   deltas are dropped        │   deltas are held         │   the next delta of a part is handed on
      └─────────────────────────────┴───────────────────────────┘
        a delta is missing, the client has no room, the doorbell was down, or events are being read

Held deltas are those that Redis published while the partial was fetched from it: they are replayed after it, where
`next` says which of them it contains already. So nothing is missing and nothing comes twice.

Void, and never handed on, is what belongs to a message that has been replaced: by its durable `message`, by a higher
try of its step (`message_id` is `<step>.<try>`), by `task_resumed` or by the end of the task. It is cosmetic at worst
if a dead worker's last deltas slip in later: the durable message replaces them.

Not thread-safe: its owner locks. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from agent_runtime.protocol import TERMINAL_EVENTS

HELD_DELTAS = 512

MessageId = tuple[int, ...]
"""`<step>.<try>` as numbers, so that a later message is a greater one."""
_NONE: MessageId = ()


@dataclass(frozen=True, slots=True)
class PartFrame:
    """A `delta` or a `partial`: where it belongs, and its bytes on the wire.

    `index` is the number of a delta, or for a partial that of the delta which follows it (`next`).
    """

    message_id: MessageId
    part: tuple[int, str]
    index: int
    data: bytes


class State(Enum):
    STALE = "stale"
    FETCHING = "fetching"
    CURRENT = "current"


class Parts:
    """Decides what of a task's deltas is handed on to one subscriber."""

    def __init__(self) -> None:
        self.state = State.STALE
        self.wanted = True
        """Whether a fetch is worth while: there may be something to get."""
        self._void = _NONE
        self._latest = _NONE
        self._next: dict[tuple[int, str], int] = {}
        self._held: list[PartFrame] = []

    def lost(self) -> None:
        """Deltas may be missing, or the client had no room for one."""
        self.state = State.STALE
        self.wanted = True
        self._held.clear()

    def begin_fetch(self) -> None:
        """The text so far is being fetched from Redis."""
        self.state = State.FETCHING
        self.wanted = False

    def fetch_failed(self) -> None:
        """Redis does not answer: wait until it gives a sign of life, which is another delta or an acknowledgement."""
        self.state = State.STALE
        self._held.clear()

    def fetched(self, partials: Iterable[PartFrame]) -> list[PartFrame]:
        """What to hand on now: the text so far, and the deltas that came meanwhile."""
        if self.state is not State.FETCHING:
            return []
        self.state = State.CURRENT
        handed_on = []
        for partial in sorted(partials, key=lambda found: found.message_id):
            if self._is_live(partial.message_id):
                handed_on.append(partial)
                self._next[partial.part] = partial.index
        handed_on = [partial for partial in handed_on if partial.message_id == self._latest]
        held, self._held = self._held, []
        return handed_on + [delta for delta in held if self._takes(delta)]

    def delta(self, delta: PartFrame) -> bool:
        """A delta arrived. Whether to hand it on."""
        match self.state:
            case State.CURRENT:
                return self._takes(delta)
            case State.FETCHING if len(self._held) < HELD_DELTAS:
                self._held.append(delta)
            case _:
                self.lost()
        return False

    def event(self, type_: str, message_id: MessageId | None) -> None:
        """An event was handed on; `message_id` if it is an assistant's message."""
        if message_id is not None:
            self._void_up_to(message_id)
        elif type_ == "task_resumed" or type_ in TERMINAL_EVENTS:
            self._void_up_to(self._latest)

    def _takes(self, delta: PartFrame) -> bool:
        if self.state is not State.CURRENT or not self._is_live(delta.message_id):
            return False
        expected = self._next.get(delta.part, 0)
        if delta.index > expected:
            self.lost()
        if delta.index != expected:
            return False
        self._next[delta.part] = expected + 1
        return True

    def _is_live(self, message_id: MessageId) -> bool:
        if message_id <= self._void or message_id < self._latest:
            return False
        if message_id > self._latest:
            self._latest = message_id
            self._next.clear()
        return True

    def _void_up_to(self, message_id: MessageId) -> None:
        self._void = max(self._void, message_id)
        if self._latest <= self._void:
            self._next.clear()
