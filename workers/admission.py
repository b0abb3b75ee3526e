"""What this host refuses to run: a real model without isolation that nobody asked for."""

from __future__ import annotations

from sqlalchemy import func, select

from infra.errors import TaskFailedError
from infra.models import REPLAY_PREFIX
from infra.services import Services
from infra.tables import User
from infra.tasks.log import TaskRow
from workers.sandbox.base import Driver


def refuse_unsafe(services: Services, driver: Driver, task: TaskRow) -> None:
    """The `local` sandbox isolates nothing: a real model runs in it only where the operator named it, for one user.

    Raises:
        TaskFailedError: `sandbox_required`.
    """
    if driver.kind != "local" or task.model.startswith(REPLAY_PREFIX):
        return
    if services.settings.sandbox != "local":
        raise TaskFailedError(
            "no Docker Engine with the agent image answers on this host, and `local` isolates nothing",
            hint="Start Docker and run `farhand image`; or set FARHAND_SANDBOX=local to run commands unisolated.",
            code="sandbox_required",
        )
    with services.database.begin() as connection:
        users = connection.execute(select(func.count()).select_from(User)).scalar_one()
    if users > 1:
        raise TaskFailedError(
            "the `local` sandbox doesn't keep users apart, and this deployment has more than one",
            hint="Use the docker sandbox: start Docker and run `farhand image`.",
            code="sandbox_required",
        )
