"""What reached a stand-in, kept for assertions, with signals to wait for."""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry")


class RequestLog(Generic[Entry]):
    """A list of requests whose every change, and every change of an entry, wakes those who wait for it."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._changed = threading.Condition()

    def add(self, entry: Entry) -> Entry:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()
        return entry

    def update(self, entry: Entry, **changes: Any) -> None:
        with self._changed:
            for name, value in changes.items():
                setattr(entry, name, value)
            self._changed.notify_all()

    def snapshot(self) -> list[Entry]:
        with self._changed:
            return list(self._entries)

    def wait_until(self, reached: Callable[[list[Entry]], bool], timeout: float) -> list[Entry]:
        """All requests once `reached` holds for them. Raises TimeoutError, with what was there, after `timeout` s."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not reached(list(self._entries)):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise TimeoutError(f"not reached within {timeout} s; requests so far: {self._entries}")
            return list(self._entries)
