"""Who a sandbox belongs to before any task does: whoever holds the lock on `RUN_DIR/s/<id>.hold`.

A sandbox that waits for a task is named in no row, so the sweeps of this host know by its lock that somebody lives who
wants it. The kernel gives the lock up when its process ends, however it ends; so there is nothing to be late or wrong.

    made      the lock is there before the directory is, so whoever sees the directory finds it locked
    named     the attempt's row names the sandbox: then, and not before, the lock is given up
    orphan    neither named by a running task nor locked. Whoever gets the lock removes it; others see that and pass by
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.sandbox import directory

_SUFFIX = ".hold"


class Hold:
    """The lock of this process on one sandbox. Give it up when a row names the sandbox, or nothing is left of it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    def give_up(self, *, forget: bool = True) -> None:
        """Once; later calls do nothing. `forget=False` leaves the file: the sandbox is for a sweep to remove."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if forget:
            self._path.unlink(missing_ok=True)
        os.close(descriptor)


def hold_new(run_dir: Path) -> tuple[str, Hold]:
    """A fresh sandbox id, held by this process. Raises ConfigurationError when the run directory can't be written."""
    directory.make_root(run_dir)
    while True:
        sandbox_id = directory.new_sandbox_id()
        path = _path_of(run_dir, sandbox_id)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        # A sweep that saw the file before it was locked may have it, or have removed it: then nobody misses that id.
        if _lock(descriptor) and path.exists():
            return sandbox_id, Hold(path, descriptor)
        os.close(descriptor)


def held_ids(run_dir: Path) -> list[str]:
    """All sandboxes with a hold, of the living or the dead."""
    return [path.name.removesuffix(_SUFFIX) for path in (run_dir / "s").glob(f"*{_SUFFIX}")]


@contextmanager
def unless_held(run_dir: Path, sandbox_id: str) -> Iterator[bool]:
    """Whether nobody who lives holds this sandbox; within the block nobody can. Its hold is gone after a block that
    did not raise."""
    path = _path_of(run_dir, sandbox_id)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        free = _lock(descriptor)
        yield free
        if free:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path_of(run_dir: Path, sandbox_id: str) -> Path:
    place = directory.path_of(run_dir, sandbox_id)
    return place.with_name(place.name + _SUFFIX)
