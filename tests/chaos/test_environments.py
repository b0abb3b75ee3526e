"""A project's environment when its worker dies: the same image, variables, masks and result of the setup afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.conftest import CREDENTIALS
from tests.chaos.stage import Followed, Stage, eventually
from tests.images import Images

pytestmark = [pytest.mark.docker, pytest.mark.slow]

OLD, NEW = "an-old-password", "the-new-password"
SCRIPT = "mkdir .venv; cat /proc/sys/kernel/random/uuid > .venv/id"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with Images() as images:
        yield images.make("echo the marker > /opt/marker")


class Project:
    """A repository of its own, with an environment."""

    def __init__(self, stage: Stage, tree: Path, **environment: Any) -> None:
        self.stage = stage
        tree.mkdir()
        (tree / ".gitignore").write_text(".venv/\n")
        name = f"equipped-{uuid4().hex[:8]}"
        stage.git_host.create(name, from_dir=tree)
        self.url = stage.git_host.url(name)
        given = {"variables": {"MODE": "the mode"}, "secrets": {"TEST_PASSWORD": OLD}, **environment}
        username, token = CREDENTIALS
        self.id = stage.client.create_project(repo_url=self.url, git_username=username, git_token=token, **given)["id"]

    def submit(self, trajectory: str) -> Followed:
        task = self.stage.client.submit(repo_url=self.url, prompt=f"do it [trajectory:{trajectory}]")
        return Followed(self.stage, trajectory, task["id"])


def setups(task: Followed) -> list[str]:
    """What was told of the setup, once for each of its beginnings."""
    told = [event["data"] for event in task.of("build_progress")]
    return [data["stage"] for data in told if (data["stage"], data["percent"]) in {("setup", 0), ("setup_kept", 100)}]


def assert_masked(task: Followed) -> None:
    asked = [request.body for request in task.stage.model.requests if request.trajectory == task.trajectory]
    recorded = task.stage.rows("select user_turn::text, response::text from steps where task_id = %s", task.id)
    for what in (task.frames, asked, recorded, task.stage.client.task(task.id)):
        text = json.dumps(what)
        assert OLD not in text
        assert NEW not in text


def seen(task: Followed, step: int) -> list[str]:
    """Result of the setup, marker of the image, variable, masked secret."""
    return task.output(f"{step}.0").splitlines()[:4]


def is_there(stage: Stage, path: str) -> bool:
    """In the only sandbox, if there is only one."""
    containers = stage.containers()
    looks = [subprocess.run(["docker", "exec", one, "test", "-e", path], check=False) for one in containers]
    return len(looks) == 1 and looks[0].returncode == 0


REST = ["the marker", "the mode", "password ***"]


def test_an_adopted_sandbox_keeps_its_environment_and_its_masks(pair: Stage, tmp_path: Path, image: str) -> None:
    project = Project(pair, tmp_path / "tree", image=image, setup_script=SCRIPT)
    task = project.submit("equipped")
    task.wait_for("tool_call", 2)
    (sandbox,) = pair.containers()
    pair.kill_worker_of(task.id)
    resumed = task.wait_for("task_resumed")["data"]
    assert (resumed["attempt"], resumed["reason"], pair.containers()) == (2, "adopted", [sandbox])
    pair.run_inside("touch", "/tmp/go")
    assert task.end()["attempt"] == 2
    assert setups(task) == ["setup"]
    first = seen(task, 1)
    assert first[1:] == REST
    assert [seen(task, step) for step in (2, 3)] == [first, first]
    assert_masked(task)


def test_after_the_loss_of_a_host_s_sandbox_the_setup_is_not_run_again(pair: Stage, tmp_path: Path, image: str) -> None:
    project = Project(pair, tmp_path / "tree", image=image, setup_script=SCRIPT)
    task = project.submit("host-lost")
    task.wait_for("tool_call", 2)
    pair.lose_host_of(task.id)
    assert task.end()["attempt"] == 2
    assert "interrupted" in task.output("2.0")
    assert setups(task) == ["setup", "setup_kept"]
    assert seen(task, 3) == seen(task, 1)
    assert seen(task, 1)[1:] == REST
    assert_masked(task)


def test_where_the_environment_was_changed_nothing_is_adopted_and_no_secret_is_shown(
    pair: Stage, tmp_path: Path, image: str
) -> None:
    """The commands of the old sandbox have the old secret, which nobody could mask any more."""
    project = Project(pair, tmp_path / "tree", image=image, setup_script=SCRIPT)
    task = project.submit("changed")
    task.wait_for("tool_call", 2)
    (sandbox,) = pair.containers()
    pair.client.change_project(project.id, secrets={"TEST_PASSWORD": NEW}, variables={"MODE": "another"})
    pair.kill_worker_of(task.id)
    assert task.wait_for("task_resumed", 2)["data"]["attempt"] == 3
    eventually(lambda: sandbox not in pair.containers(), "the old sandbox is removed")
    assert task.end()["attempt"] == 3
    assert "interrupted" in task.output("2.0")
    assert seen(task, 3)[2:] == ["another", "password ***"]
    assert setups(task) == ["setup", "setup"], "a variable has changed"
    assert_masked(task)


def test_a_worker_that_dies_while_the_setup_runs_leaves_nothing_to_adopt(
    pair: Stage, tmp_path: Path, image: str
) -> None:
    script = f"touch /tmp/building; until [ -e /tmp/built ]; do sleep 0.03; done; {SCRIPT}"
    project = Project(pair, tmp_path / "tree", image=image, setup_script=script)
    task = project.submit("building")
    eventually(lambda: is_there(pair, "/tmp/building"), "the script runs")
    (sandbox,) = pair.containers()
    pair.kill_worker_of(task.id)
    resumed = task.wait_for("task_resumed")["data"]
    assert (resumed["attempt"], resumed["reason"]) == (2, "worker_lost")
    eventually(lambda: sandbox not in pair.containers(), "the old sandbox is removed")
    eventually(lambda: is_there(pair, "/tmp/building"), "another one builds")
    eventually(lambda: setups(task) == ["setup", "setup"], "and its user is told")
    pair.run_inside("touch", "/tmp/built", "/tmp/go")
    assert task.end()["attempt"] == 2
    assert seen(task, 3) == seen(task, 1)
    assert seen(task, 1)[1:] == REST
    assert_masked(task)
