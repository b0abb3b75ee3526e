"""One service each, for compose, systemd and development. The process becomes the service."""

from __future__ import annotations

import sys

import click

from infra import settings
from infra.cli import launch
from infra.cli.launch import become
from infra.errors import ConfigurationError

_pass_on = {"ignore_unknown_options": True, "allow_interspersed_args": False}

host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")


@click.command(name="api")
@host_option
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--with-stream", is_flag=True, help="Serve the WebSocket stream on the same port.")
def api(host: str, port: int, *, with_stream: bool) -> None:
    """Run the REST API (gunicorn). Needs FARHAND_DATABASE_URL, FARHAND_REDIS_URL and FARHAND_SECRET_KEYS."""
    _load_for_a_service()
    become(launch.api_command(bind=f"{host}:{port}", part="both" if with_stream else "rest"))


@click.command(name="gateway")
@host_option
@click.option("--port", type=click.IntRange(0, 65535), default=8001, show_default=True)
def gateway(host: str, port: int) -> None:
    """Run the WebSocket gateway (gunicorn). Needs the same settings as the API."""
    _load_for_a_service()
    become(launch.api_command(bind=f"{host}:{port}", part="stream"))


@click.command(name="worker")
@click.option("--number", type=click.IntRange(1), default=1, help="Tells the workers of one host apart.")
def worker(number: int) -> None:
    """Run a worker (Celery).

    It runs FARHAND_WORKER_SLOTS tasks at a time, in sandboxes of its host. Needs the same settings as the API.
    """
    become(launch.worker_command(slots=_load_for_a_service().worker_slots, number=number))


def _load_for_a_service() -> settings.Settings:
    """The settings, if a service can start with them: told here in a line, not by each service's own loader.

    Raises ConfigurationError.
    """
    from infra.crypto import KeyRing

    loaded = settings.load()
    needed = {"FARHAND_DATABASE_URL": loaded.database_url, "FARHAND_REDIS_URL": loaded.redis_url}
    if missing := [name for name, value in needed.items() if not value]:
        raise ConfigurationError(
            f"{' and '.join(missing)} not set",
            hint="Set it to the address of the deployment's server; `farhand up` brings servers of its own.",
        )
    KeyRing.from_settings(loaded)
    return loaded


@click.command(name="migrate")
def migrate() -> None:
    """Bring the database to the schema of this version.

    Needs FARHAND_DATABASE_URL. Any number of services may do it at once.
    """
    from infra.db import Database
    from infra.migrate import upgrade

    database = Database(settings.load().database_url, pool_size=1)
    try:
        click.echo(f"the database is at revision {upgrade(database)}")
    finally:
        database.close()


@click.command(name="image", context_settings=_pass_on, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def image(arguments: tuple[str, ...]) -> None:
    """Build the image that sandboxes run."""
    become((sys.executable, "-m", "infra.images.build", *arguments))


@click.command(name="test", context_settings=_pass_on)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENT]...")
def test(arguments: tuple[str, ...]) -> None:
    """Run the test suite.

    Without arguments all of it, in two processes. Arguments go to pytest, which then runs in one unless `-n 2` is among
    them: paths below `tests`, `-k WORDS`, `-x`, … (`farhand test -- --help` lists them). The tests bring their own
    Postgres and Redis. Those that need Docker are skipped without one, unless FARHAND_REQUIRE (such as `docker`) says
    that they must run.
    """
    become((sys.executable, "-m", "pytest", *(arguments or ("-q", "-n", "2", "tests"))))


@click.command(name="bench", context_settings=_pass_on)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[NAME]... [--json] [--tasks N]")
def bench(arguments: tuple[str, ...]) -> None:
    """Run the benchmarks, each beside a floor of the same run.

    A NAME is accept, dispatch, step, event, demo, sandbox, snapshot or recovery; without one all run. Parts of
    `sandbox` that run by themselves too are density, history and peer; `--tasks N` is how many tasks `density` has at
    a time. `--json` prints one JSON object for each figure, one a line. Exit code 1 when a target is missed. All but
    accept, event and demo need Docker and the agent image.
    """
    become((sys.executable, "-m", "tests.bench", *arguments))


@click.command(name="chaos", context_settings=_pass_on, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--tasks N] [--faults N] [--seed S] [--json]")
def chaos(arguments: tuple[str, ...]) -> None:
    """Break a deployment in every way, and check that nothing is lost.

    It starts a deployment of its own, kills, pauses, cuts and wipes its parts, and judges from outside what is left:
    docs/chaos.md. Exit code 1 when anything is not as it must be.
    """
    become((sys.executable, "-m", "tests.referee", *arguments))
