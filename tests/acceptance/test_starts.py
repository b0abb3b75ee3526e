"""Tasks that wait for their start say so, can be cancelled meanwhile, and start when it is their turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.client.rest import Client
from tests.acceptance.conftest import CREDENTIALS
from tests.deployment import Deployment
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = pytest.mark.slow

END = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}
DEADLINE_S = 60.0
WAITING = {"stage": "waiting for other tasks of this worker to start", "percent": 0}


def until(client: Client, task: str, reached: Callable[[dict[str, Any]], bool]) -> None:
    """Follow a task until an event of it is as asked."""
    for frame in client.stream(task):
        if frame["type"] == "event" and reached(frame["event"]):
            return
    raise AssertionError(f"{task} has ended without")


def says_that_it_waits(event: dict[str, Any]) -> bool:
    return bool(event["type"] == "build_progress" and event["data"] == WAITING)


def test_starts_are_bounded_and_who_waits_says_so(
    deploy: Callable[..., Deployment], git_host: GitServer, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "README.md").write_text("a sample\n")
    git_host.create("repo", from_dir=tree)
    url = git_host.url("repo")
    with (
        ModelStandIn({"end": [END]}) as model,
        deploy(model, FARHAND_CONCURRENT_STARTS="1", FARHAND_SANDBOX="local").client() as client,
    ):
        client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
        git_host.hang()
        first = client.submit(repo_url=url, prompt="the first")["id"]
        git_host.wait_until(bool, timeout=DEADLINE_S)
        second, third = (client.submit(repo_url=url, prompt=prompt)["id"] for prompt in ("a second", "a third"))
        for task in (second, third):
            until(client, task, says_that_it_waits)
        client.cancel(second)
        until(client, second, lambda event: event["type"] == "cancelled")
        assert model.requests == []
        git_host.resume()
        for task in (first, third):
            until(client, task, lambda event: event["type"] == "completed")
