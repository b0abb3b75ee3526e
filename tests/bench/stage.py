"""What benchmarks run on: real Postgres, Redis, git host, model stand-in and, where asked for, a whole deployment."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.client.rest import Client
from infra.settings import Settings
from tests.deployment import Deployment
from tests.services import Postgres, Redis, make_settings
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn
from workers.sandbox.directory import found

CREDENTIALS = ("farhand", "a-git-password")
POOL_S = 30.0


@contextmanager
def floor_services() -> Iterator[tuple[Settings, Path]]:
    """Settings of a fresh database and Redis, and a scratch directory."""
    postgres, redis, scratch = Postgres(), Redis(), Path(tempfile.mkdtemp(prefix="fhb-"))
    try:
        postgres.start()
        postgres.make_template()
        redis.start()
        yield (
            make_settings(database_url=postgres.create_database(), redis_url=redis.url, run_dir=scratch / "run"),
            scratch,
        )
    finally:
        redis.remove()
        postgres.remove()
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Stage:
    settings: Settings
    deployment: Deployment
    client: Client
    model: ModelStandIn
    repo_url: str
    git_host: GitServer
    repo: Path
    """Where its git host has it."""


@contextmanager
def running(
    trajectories: Mapping[str, Sequence[Any]], files: int = 20, *, delay_s: float = 0.0, **more: str
) -> Iterator[Stage]:
    """A deployment with one worker, sandboxes in containers, and a repository of `files` files.

    Its model answers after `delay_s`; `more` are settings on top.
    """
    with floor_services() as (settings, scratch):
        tree = scratch / "tree"
        tree.mkdir()
        for number in range(files):
            (tree / f"file{number}.py").write_text(f"VALUE = {number}\n")
        settings.run_dir.mkdir()
        with (
            GitServer(scratch / "git", auth=CREDENTIALS) as git_host,
            ModelStandIn(trajectories, delay_s=delay_s) as model,
        ):
            repo = git_host.create("bench", from_dir=tree)
            url = git_host.url("bench")
            environment = {
                "FARHAND_ANTHROPIC_BASE_URL": model.base_url,
                "FARHAND_ANTHROPIC_API_KEY": "k",
                "FARHAND_ALLOWED_REPO_HOSTS": url.split("/")[2],
                "FARHAND_SANDBOX": "docker",
                **more,
            }
            with (
                Deployment(settings, scratch / "data", **environment) as deployment,
                deployment.client() as client,
            ):
                client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
                yield Stage(settings, deployment, client, model, url, git_host, repo)


def wait_for_pool(settings: Settings, size: int) -> None:
    """Until what waits is all there is: the last task's sandbox is gone, and the next one has asked for its job."""
    deadline = time.monotonic() + POOL_S
    while time.monotonic() < deadline:
        there = found(settings.run_dir)
        if len(there) == size and all(_listens(settings.run_dir, name) for name in there):
            time.sleep(1.0)  # its interpreter starts after its container; nothing outside tells when it has asked
            return
        time.sleep(0.05)
    raise AssertionError(f"the pool did not fill within {POOL_S:.0f} s")


def _listens(run_dir: Path, name: str) -> bool:
    return (run_dir / "s" / name / "link" / "host.sock").exists()
