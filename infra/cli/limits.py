"""`farhand limits`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from sqlalchemy import Connection

from infra import limits as stored
from infra.cli.data_dir import DataDir
from infra.cli.databases import DATABASE_URL
from infra.cli.options import data_option
from infra.db import Database
from infra.embedded.postgres import url_at

NONE = "none"


MOST = 1_000_000


def _number(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A number of tasks, or `none`, which takes the limit away."""
    if value is not None and value != NONE and not (value.isdecimal() and int(value) <= MOST):
        raise click.BadParameter(f"{value!r} is neither a number up to {MOST} nor `{NONE}`")
    return value


def _of_user(ctx: click.Context, param: click.Parameter, value: tuple[str, str] | None) -> tuple[str, str] | None:
    _number(ctx, param, value and value[1])
    return value


@click.command(name="limits")
@click.option("--tasks", callback=_number, metavar="N|none", help="Running tasks of the whole deployment.")
@click.option("--tasks-per-user", callback=_number, metavar="N|none", help="Those of each user without an own limit.")
@click.option("--user", callback=_of_user, nargs=2, type=str, metavar="EMAIL N|none", help="This user's own limit.")
@data_option
def limits(tasks: str | None, tasks_per_user: str | None, user: tuple[str, str] | None, data: Path) -> None:
    """Show or change how many tasks may run at a time.

    Straight in the database (FARHAND_DATABASE_URL, or that of the local deployment); it counts from the next task on,
    without a restart. `none` takes a limit away: users then have FARHAND_MAX_CONCURRENT_TASKS. With 0 nothing new
    starts. What runs goes on.
    """
    run_dir = Path(os.environ.get("FARHAND_RUN_DIR") or DataDir(data).run_dir())
    database = Database(os.environ.get(DATABASE_URL) or url_at(run_dir / "pg"), pool_size=1)
    try:
        with database.begin() as connection:
            for name, value in ((stored.TASKS, tasks), (stored.TASKS_PER_USER, tasks_per_user)):
                if value is not None:
                    stored.change(connection, name, _stored(value))
            if user is not None:
                stored.change_of_user(connection, user[0], _stored(user[1]))
            _show(connection)
    finally:
        database.close()


def _stored(value: str) -> int | None:
    return None if value == NONE else int(value)


def _show(connection: Connection) -> None:
    known = stored.read(connection)
    click.echo(f"tasks           {known.get(stored.TASKS, NONE)}")
    click.echo(f"tasks per user  {known.get(stored.TASKS_PER_USER, f'{NONE} (FARHAND_MAX_CONCURRENT_TASKS)')}")
    for email, value in stored.of_users(connection).items():
        click.echo(f"{email}  {value}")
