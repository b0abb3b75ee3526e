"""The floor below which a worker host takes no more work: a full disk would fail every task on it, half done.

enough room     the task is claimed
too little      the wake-up counts as not sent, so the sweep sends it again, to this worker or another; the user is told
                once by each worker. Tasks that run already go on: they end by themselves if they need what is not there
"""

from __future__ import annotations

import shutil
from uuid import UUID

from infra.services import Services
from workers.wake_ups_declined import Declined


class Room:
    """Looks at the file system of the run directory, where mirrors, packs and scratch repositories are."""

    def __init__(self, services: Services, *, worker: str) -> None:
        self._declined = Declined(services)
        self._directory = services.settings.run_dir
        self._floor = services.settings.min_free_bytes
        self._worker = worker

    def declines(self, task_id: UUID) -> bool:
        """Whether there is too little room for a task; then its wake-up is passed on.

        Raises UnavailableError while Postgres is away.
        """
        free = shutil.disk_usage(self._directory).free
        if free >= self._floor:
            self._declined.over()
            return False
        message = (
            f"{self._worker} takes no new task: its host has {free:,} bytes free below FARHAND_RUN_DIR, and keeps"
            f" {self._floor:,} (FARHAND_MIN_FREE_BYTES). The task waits for room there, or for another worker"
        )
        self._declined.pass_on(task_id, "worker_disk_full", message)
        return True
