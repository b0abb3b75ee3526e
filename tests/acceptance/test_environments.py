"""The environment of a project, in a whole deployment: commands have it, and nobody else gets to see its secrets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from infra.settings import Settings
from tests.acceptance.conftest import CREDENTIALS
from tests.acceptance.test_trouble import DONE, USAGE, command
from tests.deployment import Deployment, events_of, watch
from tests.integration.egress import goods
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SECRET = 'swordfish "und" Zöpfe'
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
SEEN = 'printf %s "$TEST_PASSWORD" | sha256sum; echo "pw=$TEST_PASSWORD mode=$MODE lang=$LANG"'
TELLS: dict[str, Any] = {
    "content": [
        {"type": "thinking", "thinking": f"I wonder about {SECRET} a little"},
        {"type": "text", "text": f"I guess that it is {SECRET}, or so. " * 3},
        {"type": "tool_use", "name": "run_command", "input": {"command": f"echo '{SECRET}'; {SEEN}"}},
    ],
    "stop_reason": "tool_use",
    "usage": USAGE,
}
LAST: dict[str, Any] = {**DONE, "content": [{"type": "text", "text": f"Done with {SECRET}."}]}
LEAKS = command('echo "password = $TEST_PASSWORD" > conf.txt')
CLEANS = command("echo 'password = os.environ' > conf.txt")


def test_commands_have_the_environment_and_nobody_sees_a_secret(
    deploy: Callable[..., Deployment], git_host: GitServer, settings: Settings
) -> None:
    goods.bare_repository(git_host.root / "work")
    with ModelStandIn({"tells": [command(SEEN), TELLS, LAST]}, api_key="a-model-key") as model:
        deployment = deploy(model)
        with deployment.client() as client:
            url = git_host.url("work")
            client.create_project(
                repo_url=url,
                git_username=CREDENTIALS[0],
                git_token=CREDENTIALS[1],
                variables={"MODE": "test mode", "LANG": "C"},
                secrets={"TEST_PASSWORD": SECRET},
            )
            task = client.submit(repo_url=url, prompt="do it [trajectory:tells]")
            frames = watch(client, task["id"])
            everything: list[Any] = [client.task(task["id"]), client.recording(task["id"]), client.diff(task["id"])]
            everything += [client._json("GET", f"/v1/tasks/{task['id']}/{what}") for what in ("messages", "tool-calls")]
        asked = [request.body for request in model.requests]
    outputs = [event["data"]["output"] for event in events_of(frames) if event["type"] == "tool_result"]
    assert [HASH in output for output in outputs] == [True, True], deployment.logs()
    assert all("pw=*** mode=test mode lang=C" in output for output in outputs)
    assert "echo '***'" in json.dumps(frames)
    assert "Done with ***." in everything[0]["final_message"]
    assert any(frame["type"] in {"delta", "partial"} for frame in frames)
    for what in (frames, everything, asked, _database(settings), deployment.all_logs()):
        text = what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)
        assert "***" in text or what is not frames
        assert not any(part in text for part in (SECRET, "swordfish", "und\\"))
    assert all("TEST_PASSWORD" in str(body["system"]) for body in asked)
    assert "***" in json.dumps(asked[-1])


def test_changes_that_hold_a_secret_are_not_pushed(deploy: Callable[..., Deployment], git_host: GitServer) -> None:
    bare = goods.bare_repository(git_host.root / "work")
    with ModelStandIn({"leaks": [LEAKS, DONE, CLEANS, DONE]}, api_key="a-model-key") as model:
        deployment = deploy(model)
        with deployment.client() as client:
            url = git_host.url("work")
            client.create_project(
                repo_url=url,
                git_username=CREDENTIALS[0],
                git_token=CREDENTIALS[1],
                secrets={"TEST_PASSWORD": SECRET},
            )
            task = client.submit(repo_url=url, prompt="do it [trajectory:leaks]")
            *_, failed = events_of(watch(client, task["id"]))
            assert failed["data"]["error"]["code"] == "secret_in_changes", deployment.logs()
            assert "TEST_PASSWORD" in failed["data"]["error"]["message"]
            assert "+password = ***" in client.diff(task["id"])
            branches = run_git(f"--git-dir={bare}", "branch", "--list", "farhand/*")
            assert branches == ""
            client.send_message(task["id"], "take it out")
            *_, done = events_of(watch(client, task["id"], after=failed["seq"]))
            assert done["type"] == "completed", deployment.logs()
            pushed = run_git(f"--git-dir={bare}", "log", "-p", "--all")
    assert "+password = os.environ" in pushed
    assert "swordfish" not in pushed


def _database(settings: Settings) -> str:
    """Every row of every table, as text. Trees are kept as they are, and this task has made none."""
    with psycopg.connect(settings.database_url.replace("+psycopg", "")) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        return "\n".join(
            str(row) for (table,) in tables for row in connection.execute(f'select t::text from "{table}" t').fetchall()
        )
