"""The attempts that run in this process, and its seats for them: as many as it has slots, whoever brought the task.

A wake-up brings one at a time to each of Celery's slots, so these alone would be bound enough. But what was adopted
from a dead worker sits on seats too, and then some of Celery's slots find none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from workers.endings import Ending

if TYPE_CHECKING:
    from workers.attempt import Attempt


class Runs:
    """Safe for many threads."""

    def __init__(self, slots: int) -> None:
        self._seats = threading.BoundedSemaphore(slots)
        self._by_token: dict[UUID, Attempt] = {}
        """By lease token: two attempts at one task may meet here, when the first was taken from us and returns."""
        self._changed = threading.Condition()

    def take_seat(self, timeout: float = 0.0) -> bool:
        """Whether there was one, within `timeout` seconds. Who took one gives it back."""
        return self._seats.acquire(blocking=timeout > 0, timeout=timeout or None)

    def give_seat(self) -> None:
        self._seats.release()

    @contextmanager
    def entered(self, attempt: Attempt) -> Iterator[None]:
        """While entered it is one of `all`."""
        with self._changed:
            self._by_token[attempt.lease.token] = attempt
        try:
            yield
        finally:
            with self._changed:
                del self._by_token[attempt.lease.token]
                self._changed.notify_all()

    @property
    def all(self) -> list[Attempt]:
        return list(self._by_token.values())

    def has(self, token: UUID) -> bool:
        return token in self._by_token

    def of_task(self, task_id: UUID) -> list[Attempt]:
        return [attempt for attempt in self.all if attempt.task.id == task_id]

    def end_all(self, ending: Ending) -> None:
        for attempt in self.all:
            attempt.end(ending)

    def wait_until(self, true_of_all: Callable[[list[Attempt]], bool], timeout: float) -> bool:
        """Looks again whenever an attempt has ended. Whether it came true within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: true_of_all(self.all), timeout)
