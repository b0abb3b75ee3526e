"""`local` isolates nothing, so a real model runs in it only where it was asked for by name, by the only user."""

from __future__ import annotations

import pytest

from infra.errors import TaskFailedError
from infra.services import Services
from infra.tasks.log import TaskRow
from tests.world import World
from workers.admission import refuse_unsafe
from workers.sandbox.local import LocalDriver

REAL, REPLAY = "claude-sonnet-5-5", "replay:x"


def judge(services: Services, sandbox: str, task: TaskRow) -> None:
    object.__setattr__(services, "settings", services.settings.model_copy(update={"sandbox": sandbox}))
    refuse_unsafe(services, LocalDriver(services.settings), task)


def test_a_recording_may_always_play(world: World) -> None:
    judge(world.services, "auto", world.row(world.task(model=REPLAY)))


def test_a_real_model_needs_local_to_be_named(world: World) -> None:
    task = world.row(world.task(model=REAL))
    with pytest.raises(TaskFailedError) as refused:
        judge(world.services, "auto", task)
    assert refused.value.code == "sandbox_required"
    judge(world.services, "local", task)


def test_a_second_user_ends_it(world: World) -> None:
    task = world.row(world.task(model=REAL))
    world.another_user()
    with pytest.raises(TaskFailedError) as refused:
        judge(world.services, "local", task)
    assert refused.value.code == "sandbox_required"
