"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from infra.cli.data_dir import DataDir, default_data_dir
from infra.client import Client
from infra.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

data_option = click.option(
    "--data",
    envvar="FARHAND_DATA",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_dir,
    metavar="DIR",
    help="Data directory of the deployment on this machine (default: ~/.local/share/farhand).",
)


class NoServerError(ConfigurationError):
    """Start one here with `farhand up`, or name one with --server and --token (FARHAND_SERVER, FARHAND_TOKEN)."""

    code = "no_server"


class NoTokenError(ConfigurationError):
    """Make an API token in your account, and name it with --token or FARHAND_TOKEN."""

    code = "no_token"


def connect(server: str | None, token: str | None, data: Path) -> Client:
    """The deployment that was named, or the one that runs on this machine with its data in `data`.

    Raises NoServerError, NoTokenError.
    """
    local = DataDir(data)
    address = local.address()
    chosen = server or address
    if chosen is None:
        raise NoServerError(f"no server is named, and none was started in {local.path}")
    # The local token is for the local deployment only: it is never sent elsewhere.
    known = token or (local.token() if chosen.rstrip("/") == address else None)
    if known is None:
        raise NoTokenError(f"there is no token for {chosen}")
    return Client(chosen, known)


def client_options(command: F) -> F:
    """--server, --token and --data, handed to the command as one `client`."""

    @functools.wraps(command)
    def connected(*args: Any, server: str | None, token: str | None, data: Path, **kwargs: Any) -> Any:
        with connect(server, token, data) as client:
            return command(*args, client=client, **kwargs)

    for option in (
        data_option,
        click.option("--token", envvar="FARHAND_TOKEN", help="API token (default: that of the local deployment)."),
        click.option("--server", envvar="FARHAND_SERVER", metavar="URL", help="Deployment (default: the local one)."),
    ):
        connected = option(connected)
    return cast("F", connected)
