"""Fixtures that every test may ask for: real Postgres and Redis, and `Services` on a fresh database."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from infra.services import Services
from infra.settings import Settings
from tests.parallel import Lanes, longest_first
from tests.run_dir import new_run_dir
from tests.services import Postgres, Redis, make_settings
from tests.world import World

_KEPT = {"FARHAND_REQUIRE", "FARHAND_AGENT_IMAGE", "FARHAND_PYTHON"}


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """No setting, and above all no model key, of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("FARHAND_", "ANTHROPIC_")) and name not in _KEPT:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running cluster; `create_database()` gives a fresh migrated database's URL. Whoever stops it starts it."""
    server = Postgres()
    try:
        server.start()
        server.make_template()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A running Redis. Whoever stops it starts it again."""
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def redis_url(redis_server: Redis) -> str:
    return redis_server.url


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A fresh database at the newest revision."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with new_run_dir() as path:
        yield path


@pytest.fixture
def settings(database_url: str, redis_url: str, run_dir: Path) -> Settings:
    """What `services` is opened with; a test that needs others overrides this fixture or uses `make_settings`."""
    return make_settings(database_url=database_url, redis_url=redis_url, run_dir=run_dir)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """The floor of a deployment on a fresh database and an empty Redis."""
    with redis_client.Redis.from_url(settings.redis_url) as client:
        client.flushdb()
    opened = Services.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def world(services: Services) -> World:
    """A user and a project on a fresh database."""
    return World.make(services)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # in a process of xdist
        longest_first(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker"):
        need("docker", _why_no_docker())


def need(part: str, missing: str | None) -> None:
    """Skip the test when `missing` says why `part` is not there; fail where FARHAND_REQUIRE names the part."""
    if missing is None:
        return
    if part in os.environ.get("FARHAND_REQUIRE", "").split(","):
        pytest.fail(f"FARHAND_REQUIRE names {part}, but {missing}", pytrace=False)
    pytest.skip(f"{part}: {missing}")


@lru_cache(maxsize=1)
def _why_no_docker() -> str | None:
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except subprocess.CalledProcessError as error:
        return f"no Docker Engine answers: {error.stderr.strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker Engine answers: {error}"
    return None
