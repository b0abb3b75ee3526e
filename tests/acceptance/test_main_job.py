"""The main job on a real package with a real bug: from the POST to the pushed branch, watched over the WebSocket."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from infra.db import Database
from infra.settings import Settings
from infra.tables import Event, Message, ModelCall, Step, ToolCall
from tests.acceptance.conftest import CREDENTIALS
from tests.acceptance.material import package
from tests.conftest import need
from tests.deployment import Deployment, events_of, watch
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_a_real_bug_is_found_fixed_and_pushed(
    deploy: Callable[..., Deployment], git_host: GitServer, settings: Settings, tmp_path: Path
) -> None:
    need("sdist", package.why_unavailable())
    package.make_repo(tmp_path / "parse")
    git_host.create("parse", from_dir=tmp_path / "parse")
    with ModelStandIn({package.TRAJECTORY_NAME: package.trajectory()}, api_key="a-model-key") as model:
        deployment = deploy(model)
        with deployment.client() as client:
            username, password = CREDENTIALS
            client.create_project(repo_url=git_host.url("parse"), git_username=username, git_token=password)
            task = client.submit(repo_url=git_host.url("parse"), prompt=package.PROMPT)
            assert task["status"] == "pending"
            events = events_of(watch(client, task["id"]))
            ended, diff = client.task(task["id"]), client.diff(task["id"])
            stored = list(client.events(task["id"]))

    assert ended["status"] == "completed", deployment.logs()
    assert ended["final_message"] == package.FINAL_MESSAGE
    assert events == stored
    assert [event["data"]["sandbox"] for event in events if event["type"] == "task_started"] == ["docker"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))

    # Red before the edit, green after it, by the package's own tests.
    outputs = [event["data"]["output"] for event in events if event["type"] == "tool_result"]
    runs = [output for output in outputs if package.GREEN in output]
    assert package.RED in runs[0]
    assert "OK" in runs[-1]
    assert package.RED not in runs[-1]

    # The branch holds the fix and nothing else; the default branch is what it was.
    refs = git_host.refs("parse")
    assert refs == {"refs/heads/main": package.HEAD, f"refs/heads/{task['branch']}": ended["head_sha"]}
    changed = run_git("diff", "--name-only", "main", task["branch"], cwd=git_host.path("parse")).split()
    assert changed == [package.FIXED_FILE]
    fixed = run_git("show", f"{task['branch']}:{package.FIXED_FILE}", cwd=git_host.path("parse"))
    assert package.FIX_NEW in fixed
    assert package.FIX_OLD not in fixed
    assert package.FIXED_FILE in diff
    run_git("clone", "--quiet", "--branch", task["branch"], str(git_host.path("parse")), str(tmp_path / "clone"))
    tests = subprocess.run(
        package.TEST_COMMAND.split(), cwd=tmp_path / "clone", capture_output=True, text=True, check=False
    )
    assert tests.returncode == 0, tests.stderr

    # Tool calls, messages and usage stand in Postgres, as the model gave them.
    turns = package.trajectory()
    stands = _what_stands_in_postgres(settings)
    assert stands.calls == _calls(turns)
    assert stands.outputs == outputs
    assert stands.messages == [("user", package.PROMPT), *(("assistant", _text(turn)) for turn in turns)]
    assert stands.usage == [(turn["usage"]["input_tokens"], turn["usage"]["output_tokens"]) for turn in turns]
    assert stands.states == {"settled"}
    assert (stands.steps, stands.events) == (len(turns), len(events))
    assert 0 < ended["spent_usd"] == pytest.approx(float(stands.cost_usd))

    # No secret reached the model, and the model was asked once for each step (G3, G5).
    assert len(model.requests) == len(turns)
    assert not any(CREDENTIALS[1] in str(request.body) for request in model.requests)


@dataclass(frozen=True, slots=True)
class Stands:
    """The rows of the only task, each list in the order in which the things happened."""

    calls: list[tuple[int, str, dict[str, Any]]]
    outputs: list[str]
    messages: list[tuple[str, str]]
    usage: list[tuple[int, int]]
    states: set[str]
    cost_usd: Decimal
    steps: int
    events: int


def _what_stands_in_postgres(settings: Settings) -> Stands:
    database = Database(settings.database_url)
    with database.begin() as connection:
        calls = connection.execute(select(*ToolCall.__table__.c).order_by(ToolCall.step, ToolCall.index)).all()
        messages = connection.execute(select(Message.role, Message.text).order_by(Message.id)).all()
        model_calls = connection.execute(select(*ModelCall.__table__.c).order_by(ModelCall.step)).all()
        steps, events = (
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (Step, Event)
        )
    database.close()
    return Stands(
        calls=[(call.step, call.tool_name, call.input) for call in calls],
        outputs=[call.output for call in calls],
        messages=[(message.role, message.text) for message in messages],
        usage=[(call.usage["input_tokens"], call.usage["output_tokens"]) for call in model_calls],
        states={call.state for call in model_calls},
        cost_usd=sum((call.cost_usd for call in model_calls), Decimal(0)),
        steps=steps,
        events=events,
    )


def _calls(turns: list[dict[str, Any]]) -> list[tuple[int, str, dict[str, Any]]]:
    """Step, tool and input of each call that the turns ask for."""
    return [
        (step, block["name"], block["input"])
        for step, turn in enumerate(turns, start=1)
        for block in turn["content"]
        if block["type"] == "tool_use"
    ]


def _text(turn: dict[str, Any]) -> str:
    return "".join(block["text"] for block in turn["content"] if block["type"] == "text")
