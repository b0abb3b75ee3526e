"""The lock that a worker process holds for life, `RUN_DIR/workers/<n>.lock`: whoever gets it knows that its last holder
is dead, and from its content which worker that was."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO
from uuid import UUID

from infra.errors import UnavailableError

MAX_WORKERS = 1000


class ProcessLock:
    """The first free lock of this host. Given up when the process ends, however it ends.

    `predecessor` is the worker that held it last; None when there was none.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file = _first_free(run_dir / "workers")
        self._file.seek(0)
        self.predecessor = _worker_id(self._file.read())

    def name(self, worker_id: UUID) -> None:
        """Say which worker holds it from now on."""
        self._file.truncate(0)
        self._file.write(str(worker_id))
        self._file.flush()


def _first_free(locks: Path) -> IO[str]:
    locks.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_WORKERS):
        file = (locks / f"{number}.lock").open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            file.close()
    raise UnavailableError(f"{MAX_WORKERS} workers hold locks in this run directory")


def _worker_id(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None
