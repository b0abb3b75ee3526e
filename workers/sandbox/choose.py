"""Which driver this worker uses."""

from __future__ import annotations

import logging

from infra.errors import ConfigurationError
from infra.settings import Settings
from workers.sandbox.base import Driver
from workers.sandbox.docker import DockerDriver
from workers.sandbox.local import LocalDriver

log = logging.getLogger(__name__)


def choose_driver(settings: Settings) -> Driver:
    """The driver that FARHAND_SANDBOX names; `auto` is docker where an engine answers and has the image, else local.

    A driver that is named is returned unchecked: a worker checks it when it starts, and says what is missing.
    `driver.kind` says what was chosen; the runner refuses a real model in a `local` one that was not named.
    """
    if settings.sandbox == "local":
        return LocalDriver(settings)
    docker = DockerDriver(settings)
    if settings.sandbox == "docker":
        return docker
    try:
        docker.check()
    except ConfigurationError as error:
        docker.close()
        action = {"action": "sandbox_fallback", "code": error.code}
        log.warning("no docker sandboxes: %s. %s", error.message, error.hint, extra=action)
        return LocalDriver(settings)
    return docker
