"""The lock that a worker process holds for life, `RUN_DIR/workers/<n>.lock`: whoever gets it knows that its last holder
is dead, and from its content which worker that was.

The kernel gives it up when the process ends, however it ends, and not before: one that is stopped (SIGSTOP) or cut off
from Postgres still holds it, and only its lease ends.

What it says is the ids of workers, one a line, the holder's own first. There is more than one while the holder inherits
(`Heir`): should it die then, the next one inherits from all of them. An id too many costs nothing: it owns no task. A
holder that dies while it writes may leave an id too few; then the tasks of that one wait for the sweep.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from infra.errors import UnavailableError

MAX_WORKERS = 1000


class ProcessLock:
    """One lock that this process has. `predecessors`: the workers that its last holder was."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        text = os.pread(descriptor, 100 * MAX_WORKERS, 0).decode(errors="replace")
        self.predecessors = [known for line in text.splitlines() if (known := _worker_id(line)) is not None]

    def name(self, *workers: UUID) -> None:
        """Say which workers its holder is, or inherits from."""
        text = "".join(f"{worker}\n" for worker in workers).encode()
        os.pwrite(self._descriptor, text, 0)  # first, so that no id is ever missing that should be there
        os.ftruncate(self._descriptor, len(text))

    def give_up(self) -> None:
        """For locks of the dead that were looked at. Our own goes with the process."""
        os.close(self._descriptor)


def first_free_lock(run_dir: Path) -> ProcessLock:
    """The lock of this process from now on. Raises UnavailableError when MAX_WORKERS are held."""
    locks = run_dir / "workers"
    locks.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_WORKERS):
        descriptor = os.open(locks / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        if _lock(descriptor):
            return ProcessLock(descriptor)
        os.close(descriptor)
    raise UnavailableError(f"{MAX_WORKERS} workers hold locks in this run directory")


def locks_of_the_dead(run_dir: Path) -> Iterator[ProcessLock]:
    """Every lock that nobody holds and that names a worker; each is held by us until the next one is asked for."""
    for path in sorted((run_dir / "workers").glob("*.lock")):
        lock = _take_from_the_dead(path)
        if lock is None:
            continue
        try:
            if lock.predecessors:
                yield lock
        finally:
            lock.give_up()


def _take_from_the_dead(path: Path) -> ProcessLock | None:
    if path.stat().st_size == 0:
        return None
    descriptor = os.open(path, os.O_RDWR)
    if _lock(descriptor):
        return ProcessLock(descriptor)
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _worker_id(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None
