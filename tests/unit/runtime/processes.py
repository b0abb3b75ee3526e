"""Looking for processes that should not be there any more."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def processes_of(uid: int) -> list[str]:
    """Pids of one user, zombies left out."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"Uid:\t{uid}\t" in (directory / "status").read_text():
                found.append(directory.name)
    return [pid for pid in found if is_alive(pid)]


def are_gone(uid: int, deadline_s: float = 10.0) -> bool:
    """Whether a user's processes end before the deadline: a killed one is still seen until the kernel has buried it."""
    deadline = time.monotonic() + deadline_s
    while processes_of(uid) and time.monotonic() < deadline:
        os.sched_yield()
    return not processes_of(uid)


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # a zombie has none
    except OSError:
        return False
