"""Attempts to log in, by address: counted in Redis for all processes, in memory while that is down.

The address is that of the connection. A proxy in front makes all clients one address; headers that could tell them
apart are not believed.
"""

from __future__ import annotations

import math
import time

import redis
from limits import parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from infra.errors import ConfigurationError, FarhandError
from infra.services import Services

_NAME = "auth"


class RateLimitedError(FarhandError):
    """Wait as long as the Retry-After header says."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AttemptLimit:
    """FARHAND_AUTH_RATE_LIMIT, over every route that takes a credential. Raises ConfigurationError for a bad one."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        try:
            self._limit = parse(settings.auth_rate_limit)
        except ValueError:
            raise ConfigurationError(
                f"FARHAND_AUTH_RATE_LIMIT: {settings.auth_rate_limit!r} is not a limit", hint="Write it as 10/minute."
            ) from None
        pool = services.bus.redis.connection_pool
        self._shared = MovingWindowRateLimiter(RedisStorage(settings.redis_url, connection_pool=pool))
        self._local = MovingWindowRateLimiter(MemoryStorage())

    def count(self, address: str) -> None:
        """Raises RateLimitedError when this was one too many."""
        try:
            self._count(self._shared, address)
        except redis.RedisError:
            self._count(self._local, address)

    def _count(self, limiter: MovingWindowRateLimiter, address: str) -> None:
        if not limiter.hit(self._limit, _NAME, address):
            free_again = limiter.get_window_stats(self._limit, _NAME, address).reset_time
            raise RateLimitedError(
                f"too many attempts: the limit is {self._limit}",
                retry_after_s=max(1, math.ceil(free_again - time.time())),
            )
