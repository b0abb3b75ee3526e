"""A pull request from the POST to GitHub: real push, real worker, and the worker dies where it hurts most."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from infra import cli
from infra.client.rest import Client
from infra.settings import Settings
from tests.acceptance.conftest import CREDENTIALS
from tests.chaos.stage import eventually
from tests.deployment import Deployment, events_of, watch
from tests.standin.github import Fault, GitHubStandIn
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]

REPO = "owner/sample"
USAGE = {"input_tokens": 100, "output_tokens": 20}
CASE = """import unittest


class Sums(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(1 + 1, {})
"""


def call(tool: str, **args: Any) -> dict[str, Any]:
    content = [{"type": "tool_use", "name": tool, "input": args}]
    return {"content": content, "stop_reason": "tool_use", "usage": USAGE}


def said(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": USAGE}


TESTS = call("run_command", command="python3 -B -m unittest")
TRAJECTORIES = {
    "fix": [
        TESTS,
        call("write_file", path="test_sums.py", content=CASE.format(2)),
        TESTS,
        said("The sum is right now. Thanks @octocat, fixes #1."),
        call("write_file", path="more.txt", content="more\n"),
        said("There is more now."),
    ]
}


@pytest.fixture
def github(git_host: GitServer) -> Iterator[GitHubStandIn]:
    with GitHubStandIn(git_host, token=CREDENTIALS[1]) as server:
        yield server


@pytest.fixture
def deployment(
    deploy: Callable[..., Deployment], git_host: GitServer, github: GitHubStandIn, tmp_path: Path
) -> Iterator[Deployment]:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "test_sums.py").write_text(CASE.format(3))
    git_host.create(REPO, from_dir=tree)
    hosts = [server.base_url.removeprefix("http://") for server in (git_host, github)]
    with ModelStandIn(TRAJECTORIES) as model:
        yield deploy(
            model,
            FARHAND_ALLOWED_REPO_HOSTS=",".join(hosts),
            FARHAND_GITHUB_HOSTS=f"{hosts[0]}={github.base_url}/api/v3",
        )


def submit(client: Client, git_host: GitServer, **project: object) -> dict[str, Any]:
    """The completed task."""
    url = git_host.url(REPO)
    client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1], **project)
    task = client.submit(repo_url=url, prompt="Fixes #1: make the test pass, @octocat [trajectory:fix]")
    watch(client, task["id"])
    return client.task(task["id"])


def test_always(deployment: Deployment, git_host: GitServer, github: GitHubStandIn) -> None:
    with deployment.client() as client:
        task = submit(client, git_host, pull_request="always")
        assert task["status"] == "completed", deployment.logs()
        types = [event["type"] for event in client.events(task["id"])]
        assert types[-3:] == ["branch_pushed", "pull_request", "completed"]
        (pull,) = github.pulls(REPO)
        assert task["pull_request"] == {"url": pull["html_url"], "number": 1}
        assert task["pull_request_requested_at"] is None
        assert pull["head"]["sha"] == task["head_sha"]
        assert pull["base"]["ref"] == "main"
        tests = [line.split("  ")[0] for line in pull["body"].splitlines() if "unittest" in line]
        assert tests == ["exit code 1", "exit code 0"]
        assert "(the files changed after this)" in pull["body"].partition("exit code 0")[0]
        assert "(the files changed after this)" not in pull["body"].partition("exit code 0")[2]
        assert "4 steps" in pull["body"]
        for harmful in ("@octocat", "#1"):
            assert harmful not in pull["body"] + pull["title"]
            assert harmful not in git_host.git(REPO, "log", "-1", "--format=%B", task["branch"])
        # A follow-up moves the branch, and the same pull request tells of it.
        client.send_message(task["id"], "and more")
        events = events_of(watch(client, task["id"], after=task["last_seq"]))
        assert [event["type"] for event in events][-2:] == ["branch_pushed", "completed"], deployment.logs()
        (pull,) = github.pulls(REPO)
        assert "There is more now." in pull["body"]
        assert "6 steps" in pull["body"]
    assert [request.method for request in github.requests] == ["GET", "POST", "GET", "PATCH"]
    assert CREDENTIALS[1] not in deployment.logs()


def test_on_request_and_the_worker_dies_before_its_commit(
    deployment: Deployment, git_host: GitServer, github: GitHubStandIn, settings: Settings
) -> None:
    with deployment.client() as client:
        task = submit(client, git_host)
        assert task["status"] == "completed", deployment.logs()
        assert task["pull_request"] is None
        held = github.inject("POST", Fault("hold", afterwards=True))
        asked = [client.request_pull_request(task["id"]) for _ in range(2)]
        assert all(one["pull_request_requested_at"] for one in asked)
        github.wait_until(lambda requests: any(request.method == "POST" and request.done for request in requests))
        with psycopg.connect(settings.database_url) as connection:
            connection.execute("select from tasks where id = %s for update", (task["id"],))
            held.released.set()
            blocked = "select 1 from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
            with psycopg.connect(settings.database_url, autocommit=True) as other:
                own = connection.info.backend_pid
                eventually(lambda: other.execute(blocked, (own,)).fetchall(), "the commit waits")
            (worker,) = [pid for pid in deployment.worker_pids() if os.getpgid(pid) == pid]
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: worker not in deployment.worker_pids(), "the worker is gone")
            # As if its hold had run out.
            connection.execute("update tasks set pull_request_not_before = now() where id = %s", (task["id"],))
        eventually(lambda: client.task(task["id"])["pull_request_requested_at"] is None, "another worker went on")
        ended = client.task(task["id"])
        assert len(github.pulls(REPO)) == len(github.sent("POST")) == 1
        assert ended["pull_request"]["number"] == 1
        types = [event["type"] for event in client.events(task["id"])]
        assert types.count("pull_request") == 1

        # By hand it is the same.
        options = ("--server", deployment.url, "--token", deployment.token)
        shown = CliRunner().invoke(cli.main, ("pr", task["id"], *options))
        assert (shown.exit_code, shown.stdout.strip()) == (0, ended["pull_request"]["url"])
        shown = CliRunner().invoke(cli.main, ("pr", task["id"], "--json", *options))
        assert (shown.exit_code, json.loads(shown.stdout)["pull_request"]) == (0, ended["pull_request"])
        github.inject("GET", Fault(status=401, body={"message": "Bad credentials"}))
        shown = CliRunner().invoke(cli.main, ("pr", task["id"], *options))
        assert (shown.exit_code, shown.stdout) == (1, "")
        assert "(pull_request_unauthorized)" in shown.stderr
