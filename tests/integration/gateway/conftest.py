"""A served gateway and a user of it. They are shared by the tests of a file, which use tasks of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from api.auth import access
from infra.services import Services
from infra.settings import Settings
from tests.integration.gateway.client import Client, open_stream
from tests.integration.gateway.process import GatewayProcess
from tests.integration.gateway.writer import Writer
from tests.services import Postgres, make_settings
from tests.world import World

Open = Callable[..., AbstractContextManager[Client]]


@pytest.fixture(scope="module")
def limits() -> dict[str, Any]:
    """Bounds of the served gateway that differ from the shipped ones; a test file overrides this."""
    return {}


@pytest.fixture(scope="module")
def settings(postgres: Postgres, redis_url: str) -> Iterator[Settings]:
    database_url = postgres.create_database()
    with tempfile.TemporaryDirectory(prefix="fh-") as run_dir:
        yield make_settings(
            database_url=database_url,
            redis_url=redis_url,
            run_dir=Path(run_dir),
            anthropic_api_key=SecretStr("never used: no worker runs"),
        )
    postgres.drop_database(database_url)


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    opened = Services.open(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def world(services: Services) -> World:
    return World.make(services)


@pytest.fixture(scope="module")
def gateway(settings: Settings, limits: dict[str, Any]) -> Iterator[GatewayProcess]:
    process = GatewayProcess(settings, **limits)
    try:
        process.start()
        yield process
    finally:
        process.close()


@pytest.fixture(scope="module")
def token(services: Services, world: World) -> str:
    return access.issue(services, world.user_id)


@pytest.fixture
def stream(gateway: GatewayProcess, token: str) -> Open:
    """`with stream() as client:` opens a stream of the world's user."""

    def open_(**options: Any) -> AbstractContextManager[Client]:
        return open_stream(gateway.url, token, **options)

    return open_


@pytest.fixture
def writer(world: World) -> Writer:
    return Writer(world)
