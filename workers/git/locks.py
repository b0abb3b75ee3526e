"""File locks between the workers of a host that never block a thread, so that greenlets of one process can wait."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.git.errors import GitError

_log = logging.getLogger(__name__)
_POLL_S = 0.02


@contextmanager
def held(
    path: Path, *, timeout: float, shared: bool = False, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock file; it is given up with the block, or with the death of the process. Waiting is logged once.

    Raises:
        GitError: `repo_timeout`, when another holder keeps it for more than `timeout` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout, on_wait)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, kind: int, timeout: float, on_wait: Callable[[], None] | None) -> None:
    deadline = time.monotonic() + timeout
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not waiting:
                waiting = True
                _log.info("waiting for another task that holds %s", path, extra={"action": "git_lock_wait"})
                if on_wait is not None:
                    on_wait()
            if time.monotonic() > deadline:
                raise GitError(
                    "another task of the same project kept this repository busy for too long",
                    hint="Retry the task; if it happens again, look for a slow clone in the worker's log.",
                    code="repo_timeout",
                ) from None
            time.sleep(_POLL_S)
