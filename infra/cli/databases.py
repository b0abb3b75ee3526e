"""Postgres and Redis of a data directory, under a supervisor; servers that the environment names are used instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from infra.cli.data_dir import DataDir
from infra.cli.process import Service
from infra.cli.supervise import Supervisor
from infra.embedded.postgres import postgres
from infra.embedded.redis import redis_server
from infra.embedded.server import Server
from infra.errors import UnavailableError

DATABASE_URL = "FARHAND_DATABASE_URL"
REDIS_URL = "FARHAND_REDIS_URL"

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def start_databases(supervisor: Supervisor, data: DataDir, run_dir: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Start what `given` names no address of; returns both addresses as environment variables.

    Raises UnavailableError: the Redis that was named does not answer.
    """
    servers = {}
    if not given.get(DATABASE_URL):
        servers[DATABASE_URL] = postgres(data.postgres, run_dir / "pg")
    if not given.get(REDIS_URL):
        servers[REDIS_URL] = redis_server(data.redis)
    else:
        _expect_redis(given[REDIS_URL])
    names = {DATABASE_URL: "postgres", REDIS_URL: "redis"}
    supervisor.start(*(_service(names[variable], server) for variable, server in servers.items()))
    return {variable: servers[variable].url if variable in servers else given[variable] for variable in names}


def _expect_redis(url: str) -> None:
    """The API and the workers would wait for it without a word."""
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
    except redis.RedisError as error:
        raise UnavailableError(
            f"Redis does not answer: {error}",
            hint=f"Start it, or correct {REDIS_URL}; without it, one is started here.",
        ) from None


def _service(name: str, server: Server) -> Service:
    return Service(
        name=name,
        command=server.command,
        ready=server.answers,
        directory=server.directory,
        environment=_ENVIRONMENT,
        user=server.user,
        stop_signal=server.stop_signal,
        stop_deadline_s=15.0,
    )
