"""A host whose engine does not answer takes no task: it would only give each one back, and take it again.

    trusted    claims go on, and ask nothing
    in doubt   the engine did not answer when the worker started, or when an attempt needed it. Before each claim it is
               asked: if it answers it is trusted again, else the wake-up is passed on, and each task's user told once

Any attempt may doubt, at any time; only an answer ends the doubt. Two that ask at the same time ask twice. Nothing of
it outlives the process: the next one asks as it starts.
"""

from __future__ import annotations

import logging
import threading
from uuid import UUID

from infra.errors import ConfigurationError
from infra.services import Services
from workers.sandbox.base import Driver, EngineUnavailableError
from workers.wake_ups_declined import Declined

log = logging.getLogger(__name__)


class EngineDoubt:
    """Of one worker. Safe for many threads."""

    def __init__(self, services: Services, driver: Driver, *, worker: str) -> None:
        self._driver = driver
        self._worker = worker
        self._declined = Declined(services)
        self._in_doubt = threading.Event()

    def check_at_start(self) -> None:
        """An engine that may come later, as after a reboot, is waited for. Raises ConfigurationError for all else."""
        try:
            self._driver.check()
        except ConfigurationError as error:
            if error.code != EngineUnavailableError.code:
                raise
            about = (error.message, error.hint)
            log.warning("no task is taken before there is an engine: %s. %s", *about, extra={"action": error.code})
            self.doubt()

    def doubt(self) -> None:
        """The engine did not answer."""
        self._in_doubt.set()

    def declines(self, task_id: UUID) -> bool:
        """Whether no sandbox can be started here; then the task's wake-up is passed on. Raises UnavailableError."""
        if not self._in_doubt.is_set():
            return False
        try:
            self._driver.check()
        except ConfigurationError as error:
            if error.code != EngineUnavailableError.code:
                return False  # an attempt fails with it, and says so
            said = f"{self._worker} takes no task: {error.message}. The task waits for it, or for another worker."
            self._declined.pass_on(task_id, error.code, f"{said} {error.hint}")
            return True
        self._in_doubt.clear()
        self._declined.over()
        log.info("the engine answers again", extra={"action": "engine_back"})
        return False
