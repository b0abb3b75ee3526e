"""A token bucket."""

from __future__ import annotations

from time import monotonic


class Bucket:
    """`rate` tokens a second, at most `burst` saved up. For one thread."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = monotonic()

    def take(self) -> bool:
        now = monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
