"""Only the worker's process dies (demand: adoption): its sandbox goes on, and whoever comes after it serves it again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.chaos.stage import Followed, Stage, alive, eventually, runs

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def in_a_tool_call(stage: Stage, task: Followed) -> None:
    task.wait_for("tool_call", 2)


def before_a_result_is_recorded(stage: Stage, task: Followed) -> None:
    task.wait_for("tool_call", 2)
    with stage.locked(task.id) as wait_for_a_write:
        stage.run_inside("touch", "/tmp/go")
        wait_for_a_write()
        stage.kill_worker_of(task.id)
        stage.cut_blocked_writes()


def test_a_running_command_goes_on_and_its_result_arrives(pair: Stage) -> None:
    task = pair.submit("tool")
    task.wait_for("tool_call", 2)
    eventually(lambda: runs("sleep 31301"), "the command runs")
    (sandbox,) = pair.containers()
    pair.kill_worker_of(task.id)
    resumed = task.wait_for("task_resumed")
    assert resumed["data"] == {"attempt": 2, "step": 2, "reason": "adopted"}
    assert pair.containers() == [sandbox]
    pair.run_inside("pkill", "-f", "sleep 31301")
    ended = task.end()
    assert ended["attempt"] == 2
    assert "interrupted" not in task.output("2.0")
    assert task.pushed("counter") == "one\ntwo\nthree\n"
    assert pair.asked("tool") == {0: 1, 1: 1, 2: 1, 3: 1}
