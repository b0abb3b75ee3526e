"""What a supervisor needs to know of an embedded server."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs in the foreground. `url` is its address, the same after every restart.

    `answers` returns within 2 s, and never raises. `user` is set when the server must not run as root.
    """

    url: str
    command: tuple[str, ...]
    directory: Path
    """Its working directory, entered before the user is changed."""
    answers: Callable[[], bool]
    stop_signal: signal.Signals
    user: str | None = None
