"""What makes a setup's result another one: all that its script depends on, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from infra.environment import Environment
from tests.integration.git.source import Source
from tests.standin.gitserver import GitServer
from workers.git.mirror import Mirror, MirrorStore
from workers.git.remote import Credentials
from workers.setup_key import lock_files, setup_key
from workers.workspace import Workspace

PROJECT = uuid4()
GIVEN = Environment(setup_script="make deps", variables={"A": "1", "B": "2"}, secrets={"S": "a-secret"})


@pytest.fixture
def workspace(mirror: Mirror) -> Workspace:
    branch, base = mirror.resolve(None)
    return Workspace(mirror, "", None, branch, base, base, 0.0)


def key(workspace: Workspace, environment: Environment = GIVEN, image: str = "sha256:1") -> str:
    return setup_key(environment, image, PROJECT, workspace)


def test_the_key_depends_on_what_the_script_gets(workspace: Workspace) -> None:
    others = [
        key(workspace, replace(GIVEN, setup_script="make deps more")),
        key(workspace, replace(GIVEN, variables={"A": "1", "B": "3"})),
        key(workspace, image="sha256:2"),
        key(replace(workspace, branch="topic")),
        setup_key(GIVEN, "sha256:1", uuid4(), workspace),
    ]
    assert len({key(workspace), *others}) == len(others) + 1
    assert key(workspace, replace(GIVEN, variables={"B": "2", "A": "1"}, secrets={})) == key(workspace)


def test_it_depends_on_lock_files_and_on_no_other_file(
    workspace: Workspace, store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    before = key(workspace)
    keys = []
    for name in ("greeting.txt", "package/more.txt"):
        source.write(name, "changed\n")
    keys.append(_after(source, store, host, credentials))
    assert keys == [before]
    for name in ("package/uv.lock", "requirements-test.txt", "requirements/ci.txt", "web/package-lock.json"):
        source.write(name, "a package\n")
        keys.append(_after(source, store, host, credentials))
        source.write(name, "another package\n")
        keys.append(_after(source, store, host, credentials))
    assert len(set(keys)) == 1 + 8


def test_a_tree_with_more_names_than_are_read_counts_as_a_whole(workspace: Workspace) -> None:
    assert lock_files(workspace.mirror, workspace.base) == []
    assert lock_files(workspace.mirror, workspace.base, most=10) == [workspace.base]


def _after(source: Source, store: MirrorStore, host: GitServer, credentials: Credentials) -> str:
    source.commit("Another commit")
    source.push("HEAD:refs/heads/main")
    mirror = store.refresh(PROJECT, host.url("repo"), credentials)
    branch, base = mirror.resolve(None)
    return key(Workspace(mirror, "", None, branch, base, base, 0.0))
