"""Waiting for what sends no signal: processes and rows of others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.1


class NeverHappenedError(Exception):
    """What was waited for did not come about. The deployment's logs tell more."""


def eventually(look: Callable[[], T], what: str, timeout: float = 60.0, *, stop: threading.Event | None = None) -> T:
    """What `look` returns, once that is true. Raises NeverHappenedError after `timeout` seconds, or at `stop`."""
    deadline = time.monotonic() + timeout
    pause = stop or threading.Event()
    while not (found := look()):
        if time.monotonic() > deadline or pause.is_set():
            raise NeverHappenedError(f"not within {timeout:.0f} s: {what}")
        pause.wait(LOOK_S)
    return found
