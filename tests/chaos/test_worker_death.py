"""The worker dies at every point of a step (G1, G2, G3): the next one goes on from the last record."""

from __future__ import annotations

import pytest

from tests.chaos.stage import Followed, Stage, eventually, runs

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def in_a_tool_call(pair: Stage, task: Followed) -> None:
    task.wait_for("tool_call", 2)
    eventually(lambda: runs("sleep 31301"), "the command runs")
    pair.lose_host_of(task.id)


def before_a_result_is_recorded(pair: Stage, task: Followed) -> None:
    task.wait_for("tool_call", 2)
    with pair.locked(task.id) as wait_for_a_write:
        eventually(pair.containers, "there is a sandbox")
        pair.run_inside("touch", "/tmp/go")
        wait_for_a_write()
        pair.lose_host_of(task.id)
        pair.cut_blocked_writes()


def before_the_model_answers(pair: Stage, task: Followed) -> None:
    pair.model.wait_for_held("ask", timeout=30)
    pair.lose_host_of(task.id)
    pair.model.open_gate("ask")


def in_the_models_stream(pair: Stage, task: Followed) -> None:
    pair.model.wait_for_held("stream", timeout=30)
    pair.lose_host_of(task.id)
    pair.model.open_gate("stream")


def before_an_answer_is_recorded(pair: Stage, task: Followed) -> None:
    pair.model.wait_for_held("commit", timeout=30)
    with pair.locked(task.id) as wait_for_a_write:
        pair.model.open_gate("commit")
        wait_for_a_write()
        pair.lose_host_of(task.id)
        pair.cut_blocked_writes()


@pytest.mark.parametrize(("trajectory", "kill"), [("tool", in_a_tool_call), ("result", before_a_result_is_recorded)])
def test_a_call_in_the_air_is_reported_and_not_run_again(pair: Stage, trajectory: str, kill: object) -> None:
    task = pair.submit(trajectory)
    assert callable(kill)
    kill(pair, task)
    ended = task.end()

    assert ended["attempt"] == 2
    assert task.of("task_resumed")[0]["data"] == {"attempt": 2, "step": 2, "reason": "worker_lost"}
    assert "interrupted" in task.output("2.0")
    # The tree is as it was after the last recorded call: the first call's word, once, and nothing of the second's.
    assert task.output("3.0").splitlines()[0] == "one"
    assert task.pushed("counter") == "one\nthree\n"
    assert pair.asked(trajectory) == {0: 1, 1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("trajectory", "kill"),
    [("ask", before_the_model_answers), ("stream", in_the_models_stream), ("commit", before_an_answer_is_recorded)],
)
def test_an_answer_in_the_air_is_counted_and_asked_for_once_more(pair: Stage, trajectory: str, kill: object) -> None:
    task = pair.submit(trajectory)
    assert callable(kill)
    kill(pair, task)
    ended = task.end()

    assert ended["attempt"] == 2
    assert task.of("task_resumed")[0]["data"] == {"attempt": 2, "step": 1, "reason": "worker_lost"}
    assert task.pushed("counter") == "one\ntwo\nthree\n"
    assert pair.asked(trajectory) == {0: 1, 1: 2, 2: 1, 3: 1}
    calls = pair.rows(
        'select step, "try", state, cost_usd = reserved_usd from model_calls where task_id = %s order by 1, 2', task.id
    )
    assert calls == [
        (1, 1, "settled", False),
        (2, 1, "lost", True),
        (2, 2, "settled", False),
        (3, 1, "settled", False),
        (4, 1, "settled", False),
    ]


def test_an_answer_that_postgres_has_is_kept_though_its_worker_is_dead(pair: Stage) -> None:
    """The worker never learns that its statement was carried out; the next one goes on from it."""
    task = pair.submit("answered")
    pair.model.wait_for_held("answered", timeout=30)
    with pair.locked(task.id) as wait_for_a_write:
        pair.model.open_gate("answered")
        wait_for_a_write()
        pair.lose_host_of(task.id)
    task.end()
    assert task.of("task_resumed")[0]["data"] == {"attempt": 2, "step": 2, "reason": "worker_lost"}
    assert task.pushed("counter") == "one\ntwo\nthree\n"
    assert pair.asked("answered") == {0: 1, 1: 1, 2: 1, 3: 1}
    assert pair.rows("select distinct state from model_calls where task_id = %s", task.id) == [("settled",)]


def test_a_result_that_postgres_has_is_kept_though_its_worker_is_dead(pair: Stage) -> None:
    task = pair.submit("resulted")
    task.wait_for("tool_call", 2)
    with pair.locked(task.id) as wait_for_a_write:
        eventually(pair.containers, "there is a sandbox")
        pair.run_inside("touch", "/tmp/go")
        wait_for_a_write()
        pair.lose_host_of(task.id)
    task.end()
    assert task.output("2.0") == "[exit code 0]"
    assert task.pushed("counter") == "one\ntwo\nthree\n"
    assert pair.asked("resulted") == {0: 1, 1: 1, 2: 1, 3: 1}
