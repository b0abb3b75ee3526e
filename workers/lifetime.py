"""What a worker can tell by its own clock about how the others see it.

    alive        its last heartbeat is younger than the ttl: nobody takes its tasks
    suspended    it is older: others may, so no model call, no push and no claim until the next one succeeds
    may judge    alive, and its heartbeats came without a gap for a full ttl: who looks dead then had the same chance

After an outage of Postgres every worker looks dead until it has beaten again, and some are later than others. One that
judged at once would take the tasks of the rest, though they live. A heartbeat that failed is a gap, and so is one that
came late, as when packets were lost on the way: half a ttl, before which nobody who beats three times a ttl looks dead.

Times are those of `time.monotonic()`. A heartbeat counts from when it began: Postgres may have been asked that early.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Lifetime:
    """Of one worker with a lease of `ttl` seconds. It is suspended before its first heartbeat."""

    def __init__(self, ttl: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._last_beat = -math.inf
        self._steady_since = math.inf

    def beaten(self, began: float) -> None:
        """A heartbeat (or the registration) that began at `began` succeeded."""
        now = self._clock()
        if now - self._last_beat > self._ttl / 2 or self._steady_since == math.inf:
            self._steady_since = now
        self._last_beat = began

    def missed(self) -> None:
        """A heartbeat failed. What it is past is known from the last one that did not."""
        self._steady_since = math.inf

    def suspended(self) -> bool:
        """Whether others may believe that we are dead."""
        return self._clock() >= self._last_beat + self._ttl

    def may_judge(self) -> bool:
        """Whether those who look dead to us are."""
        return not self.suspended() and self._clock() - self._steady_since >= self._ttl
