"""A deployment with its model and its git host on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.deployment import Deployment
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

CREDENTIALS = ("farhand", "a-git-password")


def environment_for(model: ModelStandIn, git_host: GitServer) -> dict[str, str]:
    """Settings that send a deployment's model calls and git remotes to the stand-ins, and its work to containers."""
    return {
        "FARHAND_ANTHROPIC_BASE_URL": model.base_url,
        "FARHAND_ANTHROPIC_API_KEY": "a-model-key",
        "FARHAND_ALLOWED_REPO_HOSTS": git_host.url("x").split("/")[2],
        "FARHAND_SANDBOX": "docker",
    }


@pytest.fixture
def git_host(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "git", auth=CREDENTIALS) as server:
        yield server


@pytest.fixture
def deploy(settings: Settings, tmp_path: Path, git_host: GitServer) -> Iterator[Callable[..., Deployment]]:
    """Start a deployment whose model is the given stand-in. It is stopped after the test."""
    with ExitStack() as running:

        def start(model: ModelStandIn, *arguments: str, **environment: str) -> Deployment:
            given = environment_for(model, git_host) | environment
            return running.enter_context(Deployment(settings, tmp_path / "data", *arguments, **given))

        yield start
