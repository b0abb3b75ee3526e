"""Two deployments, of one worker and of two: each must be as good as new after every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import CREDENTIALS, environment_for
from tests.chaos.stage import Stage, eventually
from tests.chaos.trajectories import TRAJECTORIES
from tests.contract.engine_proxy import EngineProxy
from tests.deployment import Deployment
from tests.run_dir import new_run_dir
from tests.services import Postgres, Redis, make_settings
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

LEASE_TTL_S = 3.0


@pytest.fixture(scope="package")
def mortal_redis() -> Iterator[Redis]:
    """A Redis of these tests alone. It is stopped by SIGKILL, and starts empty."""
    server = Redis()
    server._server._stop_signal = signal.SIGKILL
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def deployed(
    postgres: Postgres, redis: Redis, number: int, scratch: Path, *arguments: str, warm: int = 0, **environment: str
) -> Iterator[Stage]:
    """`farhand up` with containers, a repository and a model. Nothing of it is left afterwards, or the test fails.

    `number` is its database in Redis, `warm` how many sandboxes wait in each of its workers.
    """
    tree = scratch / "tree"
    tree.mkdir()
    (tree / "README.md").write_text("a sample\n")
    with new_run_dir() as run_dir:
        redis_url = f"{redis.url.removesuffix('0')}{number}"
        settings = make_settings(database_url=postgres.create_database(), redis_url=redis_url, run_dir=run_dir)
        engine = EngineProxy(run_dir / "engine.sock")
        engine.open()
        with GitServer(scratch / "git", auth=CREDENTIALS) as git_host, ModelStandIn(TRAJECTORIES) as model:
            given = environment_for(model, git_host) | environment
            given |= {"FARHAND_LEASE_TTL": f"{LEASE_TTL_S:g}", "DOCKER_HOST": f"unix://{engine.path}"}
            given |= {"FARHAND_WARM_SANDBOXES": str(warm)}
            git_host.create("sample", from_dir=tree)
            url = git_host.url("sample")
            with (
                Deployment(settings, scratch / "data", *arguments, **given) as deployment,
                deployment.client() as client,
            ):
                client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
                stage = Stage(deployment, client, settings, git_host, model, postgres, redis, engine, url)
                workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
                stage.waiting = warm * workers
                yield stage
                stage.assert_clean()
            assert stage.containers() == []
            eventually(lambda: not stage.processes(), f"nothing runs any more: {stage.processes()}", 5)
        engine.shut()


@pytest.fixture(scope="package")
def shared_stage(postgres: Postgres, mortal_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with deployed(postgres, mortal_redis, 0, tmp_path_factory.mktemp("one"), FARHAND_WORKER_SLOTS="1") as stage:
        yield stage


@pytest.fixture(scope="package")
def shared_pair(postgres: Postgres, mortal_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with deployed(postgres, mortal_redis, 1, tmp_path_factory.mktemp("two"), "--workers", "2") as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """The shared deployment, with one worker of one slot; clean before the test and after it."""
    yield shared_stage
    shared_stage.assert_clean()


@pytest.fixture
def pair(shared_pair: Stage) -> Iterator[Stage]:
    """The same, with two workers."""
    yield shared_pair
    shared_pair.assert_clean()
