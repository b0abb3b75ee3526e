"""How many attempts of one worker may start at a time: fifty at once would be slower, and hold up those that run.

A start is work for the processors: git, a container, a checkout. A run mostly waits for its model. So attempts start in
the order in which they were claimed, a few at a time, and what runs is served in between.

    waiting   in the line. The attempt does nothing yet; its user is told
    inside    it may start. Until its sandbox is at work, it is over, or PLACE_S have passed: a start that waits for a
              slow host (the first clone of a big repository) costs no processor, and must not hold up the others
    left      the place is the next one's. For good

Who may move it: the one that leaves, whoever that is, takes the next of the line inside (`_admit`, under the lock); the
attempt's own threads, its ending and the timer make it leave, any number of times. All of it lives in one process and
dies with it: a line has no state that somebody would have to find again. An attempt that ends while it waits (a cancel,
a shutdown, a lost lease) leaves the line, and `wait` says that it never got in.
"""

from __future__ import annotations

import threading
from collections import deque

PLACE_S = 30.0


class Starts:
    """The line of one worker process. At most `limit` are inside, each for at most `place` seconds."""

    def __init__(self, limit: int, *, place: float = PLACE_S) -> None:
        self._free = limit
        self.place = place
        self._waiting: deque[Turn] = deque()
        self._lock = threading.Lock()

    def line_up(self) -> Turn:
        """Behind those that wait. `Turn.leave` must be called, whatever happens."""
        turn = Turn(self)
        with self._lock:
            self._waiting.append(turn)
            self._admit()
        return turn

    def leave(self, turn: Turn) -> None:
        """Used by `Turn`."""
        with self._lock:
            if turn.left:
                return
            turn.left = True
            if turn.inside:
                self._free += 1
            else:
                self._waiting.remove(turn)
            self._admit()
        turn.decided.set()

    def _admit(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            turn = self._waiting.popleft()
            turn.inside = True
            turn.decided.set()


class Turn:
    """One attempt's place in the line."""

    def __init__(self, starts: Starts) -> None:
        self._starts = starts
        self._timer: threading.Timer | None = None
        self.inside = False
        self.left = False
        self.decided = threading.Event()

    def wait(self) -> bool:
        """Until it may start; False when it has left the line instead."""
        self.decided.wait()
        if self.left:
            return False
        self._timer = threading.Timer(self._starts.place, self.leave)
        self._timer.daemon = True
        self._timer.start()
        if self.left:
            self._timer.cancel()
        return not self.left

    def leave(self) -> None:
        """The start is done, or there is none. Once is enough, more often is fine."""
        self._starts.leave(self)
        if self._timer is not None:
            self._timer.cancel()
