"""A worker whose engine does not answer takes no task, says so once to each user, and goes on when it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigurationError
from infra.services import Services
from infra.settings import Settings
from infra.tasks.states import Status
from tests.contract.engine_proxy import EngineProxy
from tests.integration.workers.worker_process import a_crew
from tests.world import World
from workers.engine_doubt import EngineDoubt
from workers.host import WorkerHost
from workers.sandbox.docker import DockerDriver


@pytest.fixture
def engine(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> EngineProxy:
    """Shut until it is opened."""
    proxy = EngineProxy(run_dir / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{proxy.path}")
    return proxy


@pytest.fixture
def driver(engine: EngineProxy, settings: Settings) -> Iterator[DockerDriver]:
    with closing(DockerDriver(settings)) as driver:
        yield driver


def test_an_engine_that_is_not_there_yet_is_said_once_to_each_user(world: World, driver: DockerDriver) -> None:
    doubt = EngineDoubt(world.services, driver, worker="w1")
    doubt.check_at_start()
    task, other = world.task(), world.task()
    for _ in range(3):
        assert doubt.declines(task)
    assert doubt.declines(other)
    for one in (task, other):
        row = world.row(one)
        assert (row.status, row.attempt, row.enqueued_at) == (Status.PENDING, 0, None)
        assert world.events(one) == ["task_created", "error"]


def test_a_worker_in_doubt_claims_nothing(world: World, driver: DockerDriver) -> None:
    host = WorkerHost(world.services, driver, name="w1")
    host._doubt.check_at_start()
    host._lifetime.beaten(time.monotonic())
    task = world.task()
    assert host.run(task) is None
    assert world.row(task).status == Status.PENDING
    assert world.events(task) == ["task_created", "error"]


def test_a_trusted_engine_is_not_asked(world: World, driver: DockerDriver) -> None:
    doubt = EngineDoubt(world.services, driver, worker="w1")
    assert not doubt.declines(world.task()), "nobody has doubted it, so it costs a claim nothing"


@pytest.mark.docker
def test_what_does_not_come_by_itself_ends_the_start(world: World, settings: Settings) -> None:
    named = settings.model_copy(update={"agent_image": "farhand-no-such-image:1"})
    with closing(DockerDriver(named)) as driver, pytest.raises(ConfigurationError, match="farhand-no-such-image"):
        EngineDoubt(world.services, driver, worker="w1").check_at_start()


@pytest.mark.docker
def test_an_engine_that_is_back_is_trusted_again(world: World, driver: DockerDriver, engine: EngineProxy) -> None:
    doubt = EngineDoubt(world.services, driver, worker="w1")
    doubt.doubt()
    task = world.task()
    assert doubt.declines(task)
    engine.open()
    try:
        assert not doubt.declines(task)
    finally:
        engine.shut()
    assert not doubt.declines(task), "it is trusted, until somebody doubts it"
    doubt.doubt()
    assert doubt.declines(task)
    assert world.events(task) == ["task_created", "error", "error"]


@pytest.mark.docker
def test_a_worker_may_be_there_before_its_engine(
    services: Services, settings: Settings, engine: EngineProxy, tmp_path: Path
) -> None:
    more: dict[str, Any] = {
        "FARHAND_SANDBOX": "docker",
        "FARHAND_AGENT_IMAGE": settings.agent_image,
        "DOCKER_HOST": f"unix://{engine.path}",
    }
    with a_crew(services, tmp_path, **more) as crew:
        task = crew.task("early")
        crew.until(lambda: "error" in crew.world.events(task), "its user is told")
        assert crew.world.row(task).attempt == 0
        engine.open()
        try:
            ended = crew.ended(task)
        finally:
            engine.shut()
    assert (ended.status, ended.attempt) == (Status.COMPLETED, 1)
