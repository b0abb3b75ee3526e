"""`farhand up`: a whole deployment in the foreground, on one port of this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from infra import settings
from infra.cli import launch
from infra.cli.data_dir import DataDir, make_run_dir
from infra.cli.databases import DATABASE_URL, start_databases
from infra.cli.local_user import ensure_local_user
from infra.cli.options import data_option
from infra.cli.process import Service
from infra.cli.signals import StopRequestedError, StopSignals
from infra.cli.supervise import Supervisor
from infra.db import Database
from infra.errors import ConflictError, UnavailableError


class PortTakenError(ConflictError):
    """Choose another --port, or leave it out to get a free one."""

    code = "port_taken"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. Port 0 is the one of the last start, or else any that is free."""

    data: DataDir
    port: int
    workers: int
    flower: int | None


@click.command(name="up")
@data_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of REST and stream (default: a free one).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--flower", type=click.IntRange(1, 65535), metavar="PORT", help="Show Celery's Flower on this port.")
def up(data: Path, port: int, workers: int, flower: int | None) -> None:
    """Run a whole deployment here, in the foreground.

    Starts Postgres and Redis (unless FARHAND_DATABASE_URL and FARHAND_REDIS_URL name others), the API with its
    stream, and the workers. Prints `ready http://127.0.0.1:N` once they answer; restarts what dies; TERM or Ctrl-C
    stops everything. All data stays in DIR, also the token (DIR/token) that `farhand run` uses.
    """
    plan = Plan(DataDir(data), port, workers, flower)
    plan.data.make()
    with plan.data.locked(), StopSignals() as signals:
        run(plan, wait=signals.wait)


def run(plan: Plan, *, wait: Callable[[float], None]) -> None:
    """Start everything, keep it running until `wait` raises StopRequestedError, stop everything."""
    supervisor = Supervisor(logs=plan.data.logs, pids=plan.data.pids, say=say, wait=wait)
    with ExitStack() as held:
        held.callback(supervisor.stop)
        try:
            url = _start(plan, supervisor, held)
            click.echo(f"ready {url}")
            if sys.stdout.isatty():
                say(
                    f"data, logs and token are in {plan.data.path}; give it a task with `farhand run --repo URL PROMPT`"
                )
            supervisor.watch()
        except StopRequestedError as stop:
            say(f"stopping ({stop.asked_by.name}) …")


def say(text: str) -> None:
    click.echo(f"farhand: {text}", err=True)


def _start(plan: Plan, supervisor: Supervisor, held: ExitStack) -> str:
    """Returns the address at which everything answers; `held` gets what must stay open until the end."""
    data = plan.data
    loaded = settings.load()  # a wrong setting is told before anything runs
    for stranger in settings.unknown_variables(os.environ):
        say(stranger)
    if loaded.secret_keys:
        from infra.crypto import KeyRing

        KeyRing.from_settings(loaded)
    run_dir = Path(os.environ.get("FARHAND_RUN_DIR") or data.run_dir())
    make_run_dir(run_dir)
    supervisor.stop_leftovers()
    # The socket is ours, not the API's: its address can't be lost while the API restarts.
    listener = held.enter_context(_listen(plan.port, data.address()))
    databases = start_databases(supervisor, data, run_dir, os.environ)
    environment = launch.service_environment({**os.environ, **_defaults(data, run_dir), **databases})
    with closing(Database(databases[DATABASE_URL], pool_size=1, max_overflow=0)) as database:
        since = _prepare(database, data)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        workers = _Workers(database, since, plan.workers)
        supervisor.start(
            _api(listener, url, environment),
            *(_worker(number, loaded.worker_slots, workers, environment) for number in range(1, plan.workers + 1)),
            *((_flower(plan.flower, environment),) if plan.flower else ()),
        )
    data.address_file.write_text(f"{url}\n")
    return url


def _defaults(data: DataDir, run_dir: Path) -> dict[str, str]:
    """Settings of our own for those that the environment doesn't give."""
    return {
        "FARHAND_RUN_DIR": str(run_dir),
        "FARHAND_SECRET_KEYS": os.environ.get("FARHAND_SECRET_KEYS") or data.secret_keys(),
        "FARHAND_RECORDINGS": os.environ.get("FARHAND_RECORDINGS") or str(data.recordings),
    }


def _prepare(database: Database, data: DataDir) -> datetime:
    """Schema and local user; returns the database's time, before any of our workers registered."""
    from sqlalchemy import func, select

    from infra.migrate import upgrade

    upgrade(database)
    ensure_local_user(database, data)
    with database.begin() as connection:
        return connection.execute(select(func.now())).scalar_one()


def _listen(port: int, last_address: str | None) -> socket.socket:
    """Raises PortTakenError."""
    last = (last_address or "").rpartition(":")[2]
    for candidate in (port,) if port else (int(last) if last.isdigit() else 0, 0):
        try:
            listener = socket.create_server(("127.0.0.1", candidate), backlog=1024)
        except OSError:
            continue
        listener.set_inheritable(True)
        return listener
    raise PortTakenError(f"port {port} is in use")


def _api(listener: socket.socket, url: str, environment: dict[str, str]) -> Service:
    return Service(
        name="api",
        command=launch.api_command(bind=f"fd://{listener.fileno()}", part="both"),
        ready=lambda: _answers(f"{url}/readyz"),
        directory=launch.SOURCE_ROOT,
        environment=environment,
        sockets=(listener.fileno(),),
        stop_deadline_s=12.0,
    )


def _worker(number: int, slots: int, workers: _Workers, environment: dict[str, str]) -> Service:
    return Service(
        name=f"worker{number}",
        command=launch.worker_command(slots=slots, number=number),
        ready=workers.all_answer,
        directory=launch.SOURCE_ROOT,
        environment=environment,
        stop_signal=signal.SIGINT,  # nobody comes after it: its sandboxes end with it
        stop_deadline_s=12.0,  # longer than it takes a worker to hand over its tasks
    )


def _flower(port: int, environment: dict[str, str]) -> Service:
    return Service(
        name="flower",
        command=launch.flower_command(port=port),
        ready=lambda: _answers(f"http://127.0.0.1:{port}/healthcheck"),
        directory=launch.SOURCE_ROOT,
        environment=environment,
    )


@dataclass(frozen=True, slots=True)
class _Workers:
    """Whether as many workers as we start have registered since we began."""

    database: Database
    since: datetime
    wanted: int

    def all_answer(self) -> bool:
        from sqlalchemy import func, select

        from infra.tables import Worker

        alive = select(func.count()).where(Worker.started_at >= self.since, Worker.alive_until > func.now())
        try:
            with self.database.begin() as connection:
                return connection.execute(alive).scalar_one() >= self.wanted
        except UnavailableError:  # the database may be restarting
            return False


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
