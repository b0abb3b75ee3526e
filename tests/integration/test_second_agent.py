"""A second agent costs no code: entries in the registry of a deployment, and tasks that name them.

The entries stand in a `sitecustomize` of the deployment's processes; all else is the product, and the model over HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.client.rest import Client
from infra.settings import Settings
from tests.deployment import Deployment, events_of, watch
from tests.run_dir import new_run_dir
from tests.services import Postgres, make_settings
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENTRIES = """
from infra.agents import AGENTS, AgentDefinition

for agent in (
    AgentDefinition(
        name="reader", instructions="You only read.", tools=("read_file", "list_files"), model="claude-haiku",
        max_tokens=1234, max_steps=3,
    ),
    AgentDefinition(
        name="brief", instructions="Be brief.", tools=("run_command",), command_timeout=0.5, max_command_timeout=1.5,
    ),
    AgentDefinition(name="hasty", instructions="Be quick.", tools=("run_command",), task_wall_clock=4.0),
):
    AGENTS[agent.name] = agent
"""


def call(tool: str, **args: Any) -> dict[str, Any]:
    return {"content": [{"type": "tool_use", "name": tool, "input": args}]}


DONE = {"content": [{"type": "text", "text": "Done."}]}
TRAJECTORIES: dict[str, list[Any]] = {
    "tools": [call("run_command", command="touch made"), call("read_file", path="README.md"), DONE],
    "loops": [call("list_files") for _ in range(8)],
    "sleeps": [
        call("run_command", command="sleep 100"),
        call("run_command", command="sleep 100", timeout_s=100),
        DONE,
    ],
    "named": [DONE],
    "hangs": [{"fault": "hang", "times": "forever"}, DONE],
}


class Stage:
    """One deployment with the entries, its model and a repository."""

    def __init__(self, client: Client, settings: Settings, model: ModelStandIn, repo_url: str) -> None:
        self.client, self.settings, self.model, self.repo_url = client, settings, model, repo_url

    def run(self, agent: str, trajectory: str, **task: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The ended task and its events."""
        prompt = f"do it [trajectory:{trajectory}]"
        sent = self.client.submit(repo_url=self.repo_url, prompt=prompt, agent=agent, **task)
        events = events_of(watch(self.client, sent["id"]))
        return self.client.task(sent["id"]), events

    def asked(self, trajectory: str) -> list[dict[str, Any]]:
        """What the model was sent for a trajectory."""
        return [request.body for request in self.model.requests if request.trajectory == trajectory]

    def agent_of(self, task_id: str) -> str:
        with psycopg.connect(self.settings.database_url) as connection:
            found = connection.execute(b"select agent from tasks where id = %s", (task_id,)).fetchone()
        assert found is not None
        return str(found[0])


@pytest.fixture(scope="module")
def stage(postgres: Postgres, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch = tmp_path_factory.mktemp("agents")
    for name, file, text in (("tree", "README.md", "a sample\n"), ("site", "sitecustomize.py", ENTRIES)):
        (scratch / name).mkdir()
        (scratch / name / file).write_text(text)
    with (
        new_run_dir() as run_dir,
        GitServer(scratch / "git") as git_host,
        ModelStandIn(TRAJECTORIES) as model,
    ):
        settings = make_settings(database_url=postgres.create_database(), redis_url=redis_url, run_dir=run_dir)
        git_host.create("sample", from_dir=scratch / "tree")
        environment = {
            "PYTHONPATH": f"{scratch / 'site'}:{ROOT}",
            "FARHAND_SANDBOX": "local",
            "FARHAND_ANTHROPIC_BASE_URL": model.base_url,
            "FARHAND_ANTHROPIC_API_KEY": "a-model-key",
            "FARHAND_ALLOWED_REPO_HOSTS": git_host.url("x").split("/")[2],
        }
        with Deployment(settings, scratch / "data", **environment) as deployment, deployment.client() as client:
            yield Stage(client, settings, model, git_host.url("sample"))


def results(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["type"] == "tool_result"]


def test_it_has_its_own_model_words_and_tools(stage: Stage) -> None:
    task, events = stage.run("reader", "tools")
    assert (task["status"], task["model"]) == ("completed", "claude-haiku-5-5")
    assert stage.agent_of(task["id"]) == "reader"
    for body in stage.asked("tools"):
        assert {tool["name"] for tool in body["tools"]} == {"read_file", "list_files"}
        assert (body["model"], body["max_tokens"]) == ("claude-haiku-5-5", 1234)
        assert "You only read." in str(body["system"])
    refused, read = results(events)
    assert refused["is_error"]
    assert "There is no tool 'run_command'" in refused["output"]
    assert "a sample" in read["output"]
    assert stage.client.diff(task["id"]) == "", "the command that it may not run left nothing"


def test_the_model_of_a_task_goes_before_its_agents(stage: Stage) -> None:
    task, _ = stage.run("reader", "named", model="claude-sonnet")
    assert task["model"] == "claude-sonnet-5-5"


def test_it_stops_at_its_own_number_of_steps(stage: Stage) -> None:
    task, _ = stage.run("reader", "loops")
    assert (task["status"], task["error"]["code"]) == ("failed", "max_steps_reached")
    assert "3 steps" in task["error"]["message"]
    assert len(stage.asked("loops")) == 3


def test_its_commands_have_its_own_timeouts(stage: Stage) -> None:
    task, events = stage.run("brief", "sleeps")
    assert task["status"] == "completed"
    unnamed, named = (result["output"] for result in results(events))
    assert "were killed after 0.5 s" in unnamed
    assert "were killed after 1.5 s" in named


def test_it_ends_at_its_own_wall_clock_whatever_it_waits_for(stage: Stage) -> None:
    """A model that never answers: the deployment would wait for minutes."""
    task, _ = stage.run("hasty", "hangs")
    assert (task["status"], task["error"]["code"]) == ("failed", "time_limit_reached")
