"""A git host on loopback that asks for a password, and the worker's side of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.source import Source
from tests.standin.gitserver import GitServer
from workers.git.mirror import Mirror, MirrorStore
from workers.git.remote import Credentials

SECRET = f"s3cret-{uuid4().hex}"
"""Looked for in the command lines of all processes, so that it must be of this one run."""


@pytest.fixture
def credentials() -> Credentials:
    return Credentials("x-access-token", SECRET)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "host", auth=("x-access-token", SECRET)) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, host: GitServer) -> Settings:
    allowed = (f"127.0.0.1:{host.server_address[1]}",)
    return Settings.model_validate({"run_dir": tmp_path / "run", "allowed_repo_hosts": allowed, "git_timeout": 30})


@pytest.fixture
def source(tmp_path: Path, host: GitServer) -> Source:
    """A work tree with one commit, and its repository `repo` on the host."""
    made = Source(tmp_path / "source")
    made.write("greeting.txt", "hello\n")
    made.write("package/code.py", "x = 1\n" * 50)
    made.commit("First commit")
    host.create("repo", from_dir=made.path)
    made.remote = str(host.path("repo"))
    return made


@pytest.fixture
def store(settings: Settings) -> MirrorStore:
    return MirrorStore(settings.run_dir, settings)


@pytest.fixture
def mirror(store: MirrorStore, host: GitServer, source: Source, credentials: Credentials) -> Mirror:
    return store.refresh(uuid4(), host.url("repo"), credentials)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Gives shell commands that leave a trace; the test fails when any of them was executed on the host."""
    traces = tmp_path / "traces"
    traces.mkdir()
    given = 0

    def command() -> str:
        nonlocal given
        given += 1
        return f"touch {traces}/{given}; true"

    yield command
    assert sorted(traces.iterdir()) == []
