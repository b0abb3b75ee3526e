"""How much one attempt may use of the proxy. Seconds, bytes, counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """`up` is what a sandbox sends, `down` what it gets.

    The numbers leave room for a large install, and none for carrying a data set away.
    """

    connections: int = 64
    """At a time; more wait."""
    head_s: float = 15.0
    """From the start of a connection until its whole request is there."""
    head_bytes: int = 32 * 1024
    resolve_s: float = 10.0
    connect_s: float = 15.0
    hello_s: float = 10.0
    idle_s: float = 120.0
    """Without a byte in either direction."""
    connection_s: float = 1800.0
    connection_up: int = 256 * 2**20
    connection_down: int = 2 * 2**30
    attempt_up: int = 512 * 2**20
    attempt_down: int = 8 * 2**30
    attempt_connections: int = 5000
    """Allowed ones, each of which is an audit record; after them all are refused."""
    refusals_recorded: int = 500
    """One by one; the rest are counted in one last record."""


class SpentError(Exception):
    """A bound is reached: the connection ends. `code` goes into the audit record."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Spent:
    """Bytes of one attempt so far."""

    up: int = 0
    down: int = 0


class Meter:
    """Bytes and time of one connection. Every byte is asked for here before it is sent on.

    `suspended` says whether the worker is past its own deadline: then nothing passes any more.
    """

    def __init__(self, bounds: Bounds, attempt: Spent, suspended: Callable[[], bool]) -> None:
        self._bounds = bounds
        self._attempt = attempt
        self._suspended = suspended
        self._started = self._last = time.monotonic()
        self.up = 0
        self.down = 0

    def pass_up(self, count: int) -> None:
        """Raises SpentError."""
        self._check(self.up + count, self._bounds.connection_up, self._attempt.up + count, self._bounds.attempt_up)
        self.up += count
        self._attempt.up += count

    def pass_down(self, count: int) -> None:
        """Raises SpentError."""
        bounds = self._bounds
        self._check(self.down + count, bounds.connection_down, self._attempt.down + count, bounds.attempt_down)
        self.down += count
        self._attempt.down += count

    def patience(self) -> float:
        """How long to wait for the next byte before asking again. Raises SpentError."""
        now = time.monotonic()
        if self._suspended():
            raise SpentError("suspended")
        if now >= self._started + self._bounds.connection_s:
            raise SpentError("time_exceeded")
        if now >= self._last + self._bounds.idle_s:
            raise SpentError("idle")
        return min(self._started + self._bounds.connection_s, self._last + self._bounds.idle_s) - now

    def _check(self, own: int, own_bound: int, attempt: int, attempt_bound: int) -> None:
        self.patience()
        if own > own_bound or attempt > attempt_bound:
            raise SpentError("bytes_exceeded")
        self._last = time.monotonic()
