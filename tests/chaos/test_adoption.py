"""Only the worker's process dies: its sandbox goes on, and whoever comes after it on this host serves it again."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.chaos.stage import Followed, Stage, alive, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TREE = "one\ntwo\nthree\n"
ONCE = {0: 1, 1: 1, 2: 1, 3: 1}


@pytest.fixture(params=["successor", "sibling"])
def stage_of_heir(request: pytest.FixtureRequest) -> Stage:
    """Where the process that is started in its place adopts, or another one that has run all the time."""
    stage: Stage = request.getfixturevalue("stage" if request.param == "successor" else "pair")
    return stage


def in_a_command(stage: Stage, trajectory: str) -> tuple[Followed, str]:
    """A task whose second command waits for /tmp/go, and its sandbox."""
    task = stage.submit(trajectory)
    task.wait_for("tool_call", 2)
    (sandbox,) = stage.containers()
    return task, sandbox


def assert_adopted(stage: Stage, task: Followed, sandbox: str, *, attempt: int = 2, reason: str = "adopted") -> None:
    resumed = task.wait_for("task_resumed", attempt - 1)["data"]
    assert (resumed["attempt"], resumed["reason"]) == (attempt, reason)
    assert stage.containers() == [sandbox]


def ended_as_if_nothing_had_been(stage: Stage, task: Followed, *, attempt: int = 2) -> None:
    assert task.end()["attempt"] == attempt
    assert [task.output(f"{step}.0") for step in (1, 2)] == ["[exit code 0]"] * 2
    assert "go on" not in task.output("3.0")
    assert task.pushed("counter") == TREE
    assert stage.asked(task.trajectory) == ONCE


def test_a_running_command_goes_on_and_its_result_arrives(stage_of_heir: Stage) -> None:
    stage = stage_of_heir
    task, sandbox = in_a_command(stage, "adopted")
    stage.kill_worker_of(task.id)
    assert_adopted(stage, task, sandbox)
    stage.run_inside("touch", "/tmp/go")
    ended_as_if_nothing_had_been(stage, task)
    assert stage.rows("select outcome from attempts where task_id = %s order by number", task.id) == [
        ("worker_lost",),
        ("completed",),
    ]


def test_a_command_that_ends_while_nobody_serves_it(stage: Stage) -> None:
    task, sandbox = in_a_command(stage, "unserved")
    stage.kill_worker_of(task.id)
    stage.run_inside("touch", "/tmp/go")
    assert_adopted(stage, task, sandbox)
    ended_as_if_nothing_had_been(stage, task)


@pytest.mark.parametrize("carried_out", [False, True], ids=["dropped", "carried out"])
def test_a_result_in_the_air_is_sent_again_and_recorded_once(pair: Stage, carried_out: bool) -> None:
    task, sandbox = in_a_command(pair, f"sent-{carried_out}")
    with pair.locked(task.id) as wait_for_a_write:
        pair.run_inside("touch", "/tmp/go")
        wait_for_a_write()
        pair.kill_worker_of(task.id)
        if not carried_out:
            pair.cut_blocked_writes()
    assert_adopted(pair, task, sandbox)
    ended_as_if_nothing_had_been(pair, task)


def test_an_answer_in_the_air_is_counted_and_asked_for_once_more(pair: Stage) -> None:
    task = pair.submit("mid-stream")
    pair.model.wait_for_held("mid-stream", timeout=30)
    (sandbox,) = pair.containers()
    pair.kill_worker_of(task.id)
    pair.model.open_gate("mid-stream")
    assert_adopted(pair, task, sandbox)
    assert task.end()["attempt"] == 2
    assert task.pushed("counter") == TREE
    assert pair.asked("mid-stream") == {**ONCE, 1: 2}
    calls = 'select step, "try", state from model_calls where task_id = %s and step = 2 order by 2'
    assert pair.rows(calls, task.id) == [(2, 1, "lost"), (2, 2, "settled")]
    # Nothing is said to the model about it: for the agent it was a pause.
    asked = [request for request in pair.model.requests if request.trajectory == "mid-stream"]
    assert all("The task goes on in a new sandbox" not in str(request.body) for request in asked)


def test_term_leaves_the_sandbox_to_its_heir_and_counts_no_death(stage_of_heir: Stage) -> None:
    stage = stage_of_heir
    task, sandbox = in_a_command(stage, "left")
    pid, since = stage.worker_of(task.id), time.monotonic()
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not alive(pid), "the worker is gone", timeout=10)
    assert time.monotonic() - since < 10
    assert_adopted(stage, task, sandbox)
    assert stage.rows("select deaths from tasks where id = %s", task.id) == [(0,)]
    stage.run_inside("touch", "/tmp/go")
    ended_as_if_nothing_had_been(stage, task)
    outcomes = stage.rows("select outcome from attempts where task_id = %s order by number", task.id)
    assert outcomes == [("handed_over",), ("completed",)]


def test_term_while_the_model_is_asked_is_a_pause_too(stage: Stage) -> None:
    """The loop's request is cut off, not answered: it asks the heir again."""
    task = stage.submit("left-asking")
    stage.model.wait_for_held("left-asking", timeout=30)
    (sandbox,) = stage.containers()
    os.kill(stage.worker_of(task.id), signal.SIGTERM)
    task.wait_for("task_resumed")
    stage.model.open_gate("left-asking")
    assert_adopted(stage, task, sandbox)
    assert task.end()["attempt"] == 2
    assert task.pushed("counter") == TREE
    assert stage.asked("left-asking") == {**ONCE, 1: 2}


def test_a_cancel_that_nobody_heard_is_carried_out_by_the_heir(stage: Stage) -> None:
    task, _sandbox = in_a_command(stage, "unheard")
    pid = stage.worker_of(task.id)
    os.kill(pid, signal.SIGSTOP)
    stage.client.cancel(task.id)
    os.kill(pid, signal.SIGKILL)
    ended = task.end("cancelled")
    assert ended["attempt"] == 2
    assert isinstance(task.events[-1]["data"]["confirmed_dead_ms"], int)
    assert stage.containers() == []


def test_another_runtime_resumes_and_adopts_nothing(stage: Stage) -> None:
    """As after an upgrade: what runs inside was started by another version."""
    task, sandbox = in_a_command(stage, "upgraded")
    stage.rows("update workers set runtime = 'another' returning id")
    stage.kill_worker_of(task.id)
    resumed = task.wait_for("task_resumed")["data"]
    assert (resumed["attempt"], resumed["reason"]) == (2, "worker_lost")
    assert task.end()["attempt"] == 2
    assert "interrupted" in task.output("2.0")
    eventually(lambda: sandbox not in stage.containers(), "the old sandbox is removed")


def test_a_task_that_kills_every_worker_is_not_adopted_for_ever(stage: Stage) -> None:
    task, sandbox = in_a_command(stage, "poison")
    stage.rows("update tasks set deaths = 4 where id = %s returning id", task.id)
    stage.kill_worker_of(task.id)
    assert task.end("failed")["error"]["code"] == "worker_died_repeatedly"
    eventually(lambda: sandbox not in stage.containers(), "its sandbox is removed")


def test_the_heir_that_stands_still_kills_what_it_adopted_and_nothing_else(pair: Stage) -> None:
    """The sandbox is the heir's, with all that follows: lost with its lease, and the next attempt's is another one."""
    task, sandbox = in_a_command(pair, "twice")
    pair.kill_worker_of(task.id)
    assert_adopted(pair, task, sandbox)
    heir = pair.worker_of(task.id)
    os.kill(heir, signal.SIGSTOP)
    try:
        task.wait_for("task_resumed", 2)
        second = eventually(lambda: pair.containers_of(task.id), "the next attempt has a sandbox")
        assert second != [sandbox]
    finally:
        os.kill(heir, signal.SIGCONT)
    eventually(lambda: sandbox not in pair.containers(), "the heir has removed its sandbox")
    assert task.end()["attempt"] == 3
    assert "interrupted" in task.output("2.0")
    assert task.pushed("counter") == "one\nthree\n"
