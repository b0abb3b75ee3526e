"""Waits for the end of one sandbox, once, for everybody who asks."""

from __future__ import annotations

import threading
from collections.abc import Callable

from workers.sandbox.base import Exit


class ExitWatch:
    """Runs `until_exit`, which blocks until the sandbox has ended, in a thread (under gevent: a greenlet)."""

    def __init__(self, name: str, until_exit: Callable[[], Exit]) -> None:
        self._until_exit = until_exit
        self._ended = threading.Event()
        self._exit: Exit | None = None
        # A daemon: a worker that is told to leave goes, and leaves its sandboxes to a successor.
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> Exit | None:
        """How it ended, or None after `timeout` seconds."""
        self._ended.wait(timeout)
        return self._exit

    def _watch(self) -> None:
        self._exit = self._until_exit()
        self._ended.set()
