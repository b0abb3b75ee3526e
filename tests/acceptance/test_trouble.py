"""What goes wrong ends in a state, with a code and a hint, in bounded time, and the deployment lives on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from infra.client.rest import Client
from tests.acceptance.conftest import CREDENTIALS, environment_for
from tests.deployment import Deployment, events_of, watch
from tests.run_dir import new_run_dir
from tests.services import Postgres, make_settings
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]

MODEL_DEADLINE_S = 6
SLACK_S = 20
"""For a busy machine to start a sandbox, clone and give up in."""

USAGE = {"input_tokens": 100, "output_tokens": 20}
DONE = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn", "usage": USAGE}


def call(tool: str, **args: Any) -> dict[str, Any]:
    return {
        "content": [{"type": "tool_use", "name": tool, "input": args}],
        "stop_reason": "tool_use",
        "usage": USAGE,
    }


def command(text: str, **more: Any) -> dict[str, Any]:
    return call("run_command", command=text, **more)


WRITE = call("write_file", path="new.txt", content="new\n")

TRAJECTORIES: dict[str, list[Any]] = {
    "writes": [WRITE, DONE, DONE],
    "writes-twice": [WRITE, DONE, call("write_file", path="more.txt", content="more\n"), DONE],
    "disk": [command("head -c 3G /dev/zero > big; ls -l big; rm -f big"), command("echo still here"), DONE],
    "flood": [command("yes | head -c 1000000000"), DONE],
    "forks": [command("bomb() { bomb | bomb & }; bomb; sleep 60", timeout_s=3), command("echo still here"), DONE],
    "kills": [command("kill -9 -1"), command("echo still here"), DONE],
    "memory": [command("python3 -c 'x = bytearray(8 << 30)'"), command("echo still here"), DONE],
    "binary": [
        command("head -c 5000 /dev/urandom > noise"),
        call("read_file", path="noise"),
        command("rm noise"),
        DONE,
    ],
    "529": [{"fault": "status", "status": 529, "times": "forever"}, DONE],
    "hangs": [{"fault": "hang", "times": "forever"}, DONE],
    "refuses": [{"content": [{"type": "text", "text": "No."}], "stop_reason": "refusal", "usage": USAGE}],
    "loops": [command("true") for _ in range(8)],
    "held": [command("sleep 300", timeout_s=300), DONE],
    "gate": [WRITE, {**DONE, "gate": "gate"}],
}


@dataclass
class Stage:
    """One deployment, its model and its git host, for all tests of this module."""

    deployment: Deployment
    client: Client
    git_host: GitServer
    model: ModelStandIn
    tree: Path
    recordings: Path

    def repo(self, name: str, *, credentials: bool = True) -> str:
        url = self.git_host.url(name)
        if credentials:
            self.client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
        return url

    def run(self, trajectory: str, url: str, **task: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The ended task and its events."""
        submitted = self.submit(trajectory, url, **task)
        events = events_of(watch(self.client, submitted["id"]))
        return self.client.task(submitted["id"]), events

    def submit(self, trajectory: str, url: str, **task: Any) -> dict[str, Any]:
        return self.client.submit(repo_url=url, prompt=f"do it [trajectory:{trajectory}]", **task)


@pytest.fixture(scope="module")
def stage(postgres: Postgres, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch = tmp_path_factory.mktemp("stage")
    tree = scratch / "tree"
    tree.mkdir()
    (tree / "README.md").write_text("a sample\n")
    recordings = scratch / "recordings"
    recordings.mkdir()
    with (
        new_run_dir() as run_dir,
        GitServer(scratch / "git", auth=CREDENTIALS) as git_host,
        ModelStandIn(TRAJECTORIES) as model,
    ):
        settings = make_settings(database_url=postgres.create_database(), redis_url=redis_url, run_dir=run_dir)
        environment = {
            **environment_for(model, git_host),
            "FARHAND_RECORDINGS": str(recordings),
            "FARHAND_MODEL_DEADLINE": str(MODEL_DEADLINE_S),
            "FARHAND_MODEL_IDLE_TIMEOUT": "2",
            "FARHAND_MAX_STEPS": "5",
            "FARHAND_SANDBOX_DISK_BYTES": str(64 * 2**20),
            "FARHAND_SANDBOX_MEMORY_BYTES": str(512 * 2**20),
            "FARHAND_SANDBOX_PIDS": "128",
        }
        with (
            Deployment(settings, scratch / "data", **environment) as deployment,
            deployment.client() as client,
        ):
            yield Stage(deployment, client, git_host, model, tree, recordings)
        assert _containers(run_dir) == []


def _containers(run_dir: Path) -> list[str]:
    """Containers that mount something of this deployment."""
    running = subprocess.run(["docker", "ps", "-aq"], capture_output=True, text=True, check=True).stdout.split()
    if not running:
        return []
    mounts = subprocess.run(["docker", "inspect", *running], capture_output=True, text=True, check=False).stdout
    return [line for line in mounts.splitlines() if str(run_dir) in line]


@pytest.fixture(scope="module")
def url(stage: Stage) -> str:
    stage.git_host.create("sample", from_dir=stage.tree)
    return stage.repo("sample")


def outputs(events: list[dict[str, Any]]) -> list[str]:
    return [event["data"]["output"] for event in events if event["type"] == "tool_result"]


def error_of(task: dict[str, Any], code: str) -> dict[str, Any]:
    assert task["status"] == "failed"
    assert task["error"]["code"] == code
    assert task["error"]["message"]
    assert task["error"]["hint"]
    error: dict[str, Any] = task["error"]
    return error


# ---- the repository -----------------------------------------------------------------------------------------------


def test_a_repo_that_does_not_exist(stage: Stage) -> None:
    task, events = stage.run("writes", stage.repo("nothing-here"))
    error_of(task, "repo_not_found")
    assert [event["type"] for event in events] == ["task_created", "task_started", "failed"]


def test_a_repo_without_its_password(stage: Stage, url: str) -> None:
    stage.git_host.create("secret")
    task, _ = stage.run("writes", stage.repo("secret", credentials=False))
    assert CREDENTIALS[1] not in str(error_of(task, "repo_auth_failed"))


def test_an_empty_repo(stage: Stage) -> None:
    stage.git_host.create("empty")
    task, _ = stage.run("writes", stage.repo("empty"))
    error_of(task, "repo_empty")


def test_a_host_that_nobody_knows(stage: Stage) -> None:
    task, _ = stage.run("writes", "https://nowhere.invalid/repo.git")
    error_of(task, "repo_unreachable")
    assert "nowhere.invalid" in task["error"]["message"]


def test_a_branch_that_does_not_exist(stage: Stage, url: str) -> None:
    task, _ = stage.run("writes", url, base_branch="nowhere")
    error_of(task, "branch_not_found")


def test_a_protected_branch_fails_the_task_and_keeps_the_work(stage: Stage) -> None:
    stage.git_host.create("protected", from_dir=stage.tree)
    stage.git_host.protect("protected", "refs/heads/farhand/*")
    task, events = stage.run("writes", stage.repo("protected"))
    error_of(task, "push_rejected_protected")
    assert "branch_pushed" not in {event["type"] for event in events}
    assert task["head_sha"] is None
    assert "+new" in stage.client.diff(task["id"])


def test_a_push_that_the_host_refuses_is_no_success(stage: Stage, url: str) -> None:
    stage.git_host.fail_pushes(403)
    try:
        task, _ = stage.run("writes", url)
    finally:
        stage.git_host.fail_pushes(None)
    error_of(task, "push_forbidden")
    assert "+new" in stage.client.diff(task["id"])


def test_a_branch_that_somebody_else_has_moved_is_not_overwritten(stage: Stage, url: str) -> None:
    task = stage.submit("gate", url)
    stage.model.wait_for_held("gate", timeout=60)
    main = stage.git_host.refs("sample")["refs/heads/main"]
    run_git("update-ref", f"refs/heads/{task['branch']}", main, cwd=stage.git_host.path("sample"))
    stage.model.open_gate("gate")
    watch(stage.client, task["id"])
    error_of(stage.client.task(task["id"]), "push_non_fast_forward")
    assert stage.git_host.refs("sample")[f"refs/heads/{task['branch']}"] == main


# ---- the sandbox --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trajectory", "said"),
    [
        ("disk", "No space left on device"),
        ("forks", "[timeout:"),
        ("kills", "unknown"),
        ("memory", "[killed by signal 9"),
    ],
)
def test_a_destructive_command_costs_itself_only(stage: Stage, url: str, trajectory: str, said: str) -> None:
    task, events = stage.run(trajectory, url)
    assert task["status"] == "completed", (task["error"], stage.deployment.logs())
    first, *_, last = outputs(events)
    assert said in first
    assert "still here" in last


def test_a_flood_of_output_is_cut_and_says_so(stage: Stage, url: str) -> None:
    task, events = stage.run("flood", url)
    assert task["status"] == "completed"
    (output,) = outputs(events)
    assert len(output) < 100_000
    (result,) = [event["data"] for event in events if event["type"] == "tool_result"]
    assert result["truncated"] is True


def test_a_file_that_is_not_text(stage: Stage, url: str) -> None:
    task, events = stage.run("binary", url)
    assert task["status"] == "completed"
    assert "5000" in outputs(events)[1].replace(",", "")
    assert "not a text file" in outputs(events)[1]
    results = [event["data"] for event in events if event["type"] == "tool_result"]
    assert [result["is_error"] for result in results] == [False, True, False]


# ---- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trajectory", ["529", "hangs"])
def test_a_model_that_never_answers_ends_in_bounded_time(stage: Stage, url: str, trajectory: str) -> None:
    task, events = stage.run(trajectory, url)
    error_of(task, "model_unavailable")
    began, ended = (
        datetime.fromisoformat(event["at"]) for event in events if event["type"] in {"task_started", "failed"}
    )
    assert (ended - began).total_seconds() < MODEL_DEADLINE_S + SLACK_S
    assert any(event["type"] == "error" and event["data"]["code"] == "model_try_failed" for event in events)


def test_a_model_that_refuses(stage: Stage, url: str) -> None:
    task, _ = stage.run("refuses", url)
    error_of(task, "model_refused")


def test_a_task_that_never_ends_meets_its_step_limit(stage: Stage, url: str) -> None:
    task, events = stage.run("loops", url)
    error_of(task, "max_steps_reached")
    assert sum(event["type"] == "usage" for event in events) == 5


def test_a_budget_that_does_not_cover_a_call(stage: Stage, url: str) -> None:
    task, _ = stage.run("writes", url, budget_usd=0.001)
    error_of(task, "budget_exceeded")
    assert task["spent_usd"] == 0


# ---- people and machines ------------------------------------------------------------------------------------------


def test_any_task_can_be_played_again_without_a_model(stage: Stage, url: str) -> None:
    first, _ = stage.run("writes", url)
    (stage.recordings / "again.json").write_text(json.dumps(stage.client.recording(first["id"])))
    asked = len(stage.model.requests)
    second, events = stage.run("writes", url, model="replay:again")
    assert second["status"] == "completed"
    assert second["spent_usd"] == 0
    assert len(stage.model.requests) == asked
    assert stage.client.diff(second["id"]) == stage.client.diff(first["id"])
    assert [event["type"] for event in events].count("tool_result") == 1


def test_a_cancel_kills_a_running_command_within_two_seconds(stage: Stage, url: str) -> None:
    task = stage.submit("held", url)
    for frame in stage.client.stream(task["id"]):
        if frame["type"] == "event" and frame["event"]["type"] == "tool_call":
            stage.client.cancel(task["id"])
        last = frame
    assert last["event"]["type"] == "cancelled"
    assert 0 < last["event"]["data"]["confirmed_dead_ms"] < 2000
    assert stage.client.task(task["id"])["status"] == "cancelled"


def test_a_follow_up_goes_on_with_the_conversation_and_the_branch(stage: Stage, url: str) -> None:
    task, events = stage.run("writes", url)
    assert task["status"] == "completed"
    first = task["head_sha"]
    stage.client.send_message(task["id"], "now once more")
    frames = watch(stage.client, task["id"], after=events[-1]["seq"])
    again = stage.client.task(task["id"])
    assert again["attempt"] == 2
    assert events_of(frames)[0]["seq"] == events[-1]["seq"] + 1
    last_request = stage.model.requests[-1].body["messages"]
    assert "now once more" in str(last_request[-1])
    assert "Done." in str(last_request[-2])
    assert stage.git_host.refs("sample")[f"refs/heads/{task['branch']}"] == first


def test_a_branch_that_was_deleted_after_its_merge_is_made_again_by_a_follow_up(stage: Stage, url: str) -> None:
    task, events = stage.run("writes-twice", url)
    branch = f"refs/heads/{task['branch']}"
    stage.git_host.git("sample", "update-ref", "-d", branch)
    stage.client.send_message(task["id"], "and one more")
    frames = watch(stage.client, task["id"], after=events[-1]["seq"])
    again = stage.client.task(task["id"])
    assert again["status"] == "completed", frames[-1]["event"]["data"]
    assert stage.git_host.refs("sample")[branch] == again["head_sha"] != task["head_sha"]
    assert stage.git_host.git("sample", "log", "--format=%H", branch).splitlines()[:2] == [
        again["head_sha"],
        task["head_sha"],
    ]
