"""The embedded Postgres and Redis: the real servers, stopped, killed and started again on the same data."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from infra.cli.data_dir import DataDir, InUseError, make_run_dir, remove_tree
from infra.cli.databases import DATABASE_URL, REDIS_URL, start_databases
from infra.cli.local_user import ensure_local_user, make_token
from infra.cli.supervise import Supervisor
from infra.db import Database
from infra.embedded import postgres as embedded_postgres
from infra.embedded import unprivileged
from infra.errors import ConfigurationError, NotFoundError
from infra.services import Services

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A data directory to be, whose parents are closed to everybody but us, with a name that wants quoting."""
    parent = Path(tempfile.mkdtemp(prefix="fh-data-"))
    data = parent / 'it\'s "Ümlaut" \\ data'
    yield data
    remove_tree(parent)
    remove_tree(DataDir(data).run_dir())


def silent(text: str) -> None:
    pass


@contextmanager
def embedded_databases(path: Path, *, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Postgres and Redis with their data below `path`, as long as entered: their addresses as environment variables.

    Enter it in the main thread: the servers end with the thread that started them.
    """
    data = DataDir(path)
    data.make()
    run_dir = data.run_dir()
    make_run_dir(run_dir)
    with data.locked():
        supervisor = Supervisor(logs=data.logs, pids=data.pids, say=say, wait=time.sleep)
        try:
            supervisor.stop_leftovers()
            yield start_databases(supervisor, data, run_dir, {})
        finally:
            supervisor.stop()


def test_data_and_address_are_the_same_after_a_stop(directory: Path) -> None:
    with embedded_databases(directory, say=silent) as first:
        with psycopg.connect(first[DATABASE_URL], autocommit=True) as connection:
            connection.execute("create table kept as select 42 as answer")
        with redis.Redis.from_url(first[REDIS_URL]) as client:
            client.set("kept", "42")
    with embedded_databases(directory, say=silent) as second:
        assert second == first
        with psycopg.connect(second[DATABASE_URL]) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)
        with redis.Redis.from_url(second[REDIS_URL]) as client:
            assert client.get("kept") == b"42"


def test_redis_forgets_nothing_and_evicts_nothing(directory: Path) -> None:
    with embedded_databases(directory, say=silent) as addresses:
        with redis.Redis.from_url(addresses[REDIS_URL], decode_responses=True) as client:
            assert client.config_get("appendonly", "maxmemory-policy", "bind") == {
                "appendonly": "yes",
                "maxmemory-policy": "noeviction",
                "bind": "127.0.0.1",
            }
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url("redis://" + addresses[REDIS_URL].partition("@")[2]).ping()


def test_postgres_is_behind_a_door_that_only_we_open(directory: Path) -> None:
    with embedded_databases(directory, say=silent):
        sockets = DataDir(directory).run_dir() / "pg"
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert stat.S_IMODE(DataDir(directory).run_dir().stat().st_mode) == 0o711
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_is_used_once_at_a_time(directory: Path) -> None:
    with (
        embedded_databases(directory, say=silent),
        pytest.raises(InUseError, match=f"in use by process {os.getpid()}"),
        embedded_databases(directory, say=silent),
    ):
        pass


def test_killed_in_the_middle_nothing_committed_is_lost(directory: Path) -> None:
    data = DataDir(directory)
    with embedded_databases(directory, say=silent) as addresses:
        with psycopg.connect(addresses[DATABASE_URL], autocommit=True) as connection:
            connection.execute("create table kept as select 42 as answer")
        for name in ("postgres", "redis"):
            os.kill(int((data.pids / name).read_text().split()[0]), signal.SIGKILL)
    with (
        embedded_databases(directory, say=silent) as again,
        psycopg.connect(again[DATABASE_URL]) as connection,
    ):
        assert connection.execute("select answer from kept").fetchone() == (42,)


def test_what_was_made_read_only_is_removed_too(tmp_path: Path) -> None:
    inner = tmp_path / "run/runtime/inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    inner.chmod(0o500)
    remove_tree(tmp_path / "run")
    remove_tree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_initdb_is_made_anew(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    unfinished = directory / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with embedded_databases(directory, say=silent) as addresses, psycopg.connect(addresses[DATABASE_URL]):
        assert not unfinished.exists()


def test_data_of_another_version_is_not_touched(directory: Path) -> None:
    data = directory / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="made by Postgres 9"):
        embedded_postgres.postgres(data, directory / "pg")


def test_a_socket_path_that_is_too_long_is_told(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long for a Unix socket"):
        embedded_postgres.postgres(directory / "postgres", directory / ("x" * 100))


@needs_root
def test_root_runs_postgres_as_somebody_else(directory: Path) -> None:
    with embedded_databases(directory, say=silent):
        pid = int((DataDir(directory).pids / "postgres").read_text().split()[0])
        assert Path(f"/proc/{pid}").stat().st_uid == pwd.getpwnam(unprivileged.USER).pw_uid != 0


@needs_root
def test_programs_that_the_other_user_cannot_reach_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    user = unprivileged.server_user()
    with tempfile.TemporaryDirectory(prefix="fh-programs-") as scratch:
        home = Path(scratch) / "closed/package"
        home.mkdir(parents=True)
        (Path(scratch) / "closed").chmod(0o700)
        Path(scratch).chmod(0o755)
        programs = home / "pginstall18"
        (programs / "bin").mkdir(parents=True, mode=0o700)
        shutil.copy("/bin/echo", programs / "bin/postgres")
        (programs / "bin/postgres").chmod(0o700)
        monkeypatch.setattr(unprivileged, "PROGRAM_CACHE", Path(scratch) / "cache")
        with pytest.raises(PermissionError):
            subprocess.run([programs / "bin/postgres"], user=user, check=True)

        copied = unprivileged.reachable(programs, None, user)
        assert copied != programs
        subprocess.run([copied / "bin/postgres"], user=user, check=True, capture_output=True)
        assert unprivileged.reachable(programs, None, user) == copied


def test_the_local_user_has_one_token_and_keeps_it(services: Services, tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    ensure_local_user(services.database, data)
    token = data.token()
    ensure_local_user(services.database, data)
    assert data.token() == token
    data.token_file.write_text("something else\n")
    ensure_local_user(services.database, data)
    assert data.token() not in {None, token, "something else"}
    assert _tokens(services.database) == ["local"]


def test_a_token_for_whoever_is_not_there(services: Services) -> None:
    with pytest.raises(NotFoundError, match="no user nobody@farhand"):
        make_token(services.database, email="nobody@farhand.invalid", name="x")


def _tokens(database: Database) -> list[str]:
    from sqlalchemy import select

    from infra.tables import ApiToken

    with database.begin() as connection:
        return list(connection.execute(select(ApiToken.name)).scalars())
