"""`farhand token`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from infra.cli.data_dir import DataDir
from infra.cli.databases import DATABASE_URL
from infra.cli.local_user import make_token
from infra.cli.options import NoTokenError, data_option
from infra.cli.output import json_option, print_json
from infra.db import Database
from infra.embedded.postgres import url_at


@click.command(name="token")
@click.option("--email", help="Make a token for this user.")
@click.option("--name", default="cli", show_default=True, help="Name of the new token.")
@json_option
@data_option
def token(email: str | None, name: str, data: Path, *, as_json: bool) -> None:
    """Print an API token.

    Without --email it is that of the local user, which `farhand up` made. With --email a new one is made for that
    user, straight in the database (FARHAND_DATABASE_URL, or that of the local deployment), and shown only once.
    """
    local = DataDir(data)
    found = _local_token(local) if email is None else _new_token(local, email, name)
    if as_json:
        print_json({"token": found})
    else:
        click.echo(found)


def _local_token(local: DataDir) -> str:
    """Raises NoTokenError."""
    known = local.token()
    if known is None:
        raise NoTokenError(f"{local.path} has no token", hint="Start a deployment there with `farhand up`.")
    return known


def _new_token(local: DataDir, email: str, name: str) -> str:
    """Raises NotFoundError, UnavailableError."""
    run_dir = Path(os.environ.get("FARHAND_RUN_DIR") or local.run_dir())
    database = Database(os.environ.get(DATABASE_URL) or url_at(run_dir / "pg"), pool_size=1)
    try:
        return make_token(database, email=email, name=name)
    finally:
        database.close()
