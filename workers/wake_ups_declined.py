"""How a worker that can take no task now passes its wake-ups on, without a claim."""

from __future__ import annotations

import logging
from uuid import UUID

from infra.services import Services
from infra.tasks import ownership

log = logging.getLogger(__name__)

_REMEMBERED = 10_000


class Declined:
    """Wake-ups that one worker declines for one reason, which each task's user is told once."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._told: set[UUID] = set()

    def pass_on(self, task_id: UUID, code: str, message: str) -> None:
        """It counts as not sent, so the sweep sends it again, to this worker or another. Raises UnavailableError."""
        said = ("error", {"code": code, "message": message})
        told = task_id in self._told
        if not told:
            log.error("%s", message, extra={"action": code, "task_id": task_id})
        with self._services.tasks.transaction() as tx:
            ownership.decline(tx, task_id, *([] if told else [said]))
        if len(self._told) < _REMEMBERED:
            self._told.add(task_id)

    def over(self) -> None:
        """The reason is gone. Should it come back, users are told again."""
        self._told.clear()
