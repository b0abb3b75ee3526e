"""A worker that stands still past its lease: another one takes its task, and what comes back writes nothing (G2)."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.stage import Stage, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_a_worker_that_stood_still_has_lost_its_task(pair: Stage) -> None:
    task = pair.submit("takeover")
    first = pair.model.wait_for_held("zombie", timeout=30)[0]
    (sandbox,) = pair.containers()
    zombie = pair.worker_of(task.id)
    os.kill(zombie, signal.SIGSTOP)
    try:
        pair.model.wait_for_held("successor", timeout=40)
        before = _recorded(pair, task.id)
        # The rest of the answer waits for the first worker when it comes to itself: it will want to record it.
        pair.model.open_gate("zombie")
        pair.model.wait_until(lambda _: first.delivered)
    finally:
        os.kill(zombie, signal.SIGCONT)
    eventually(lambda: sandbox not in pair.containers(), "the first worker has removed its sandbox")
    eventually(lambda: _live_workers(pair) == 2, "the first worker is back under a new id")
    assert _recorded(pair, task.id) == before
    assert zombie in pair.deployment.worker_pids()

    pair.model.open_gate("successor")
    assert task.end()["attempt"] == 2
    assert task.of("task_resumed")[0]["data"] == {"attempt": 2, "step": 1, "reason": "worker_lost"}
    assert task.pushed("counter") == "one\ntwo\nthree\n"
    assert pair.asked("takeover") == {0: 1, 1: 2, 2: 1, 3: 1}


def _recorded(stage: Stage, task_id: str) -> list[tuple[object, ...]]:
    """Everything that a worker could have written for this task."""
    return stage.rows(
        "select t.last_seq, t.last_step, t.spent_usd, t.lease_token, t.attempt,"
        " (select count(*) from steps s where s.task_id = t.id), (select count(*) from model_calls),"
        " (select count(*) from tool_calls c where c.task_id = t.id and c.output is not null)"
        " from tasks t where t.id = %s",
        task_id,
    )


def _live_workers(stage: Stage) -> int:
    ((count,),) = stage.rows("select count(*) from workers where alive_until > now() and swept_at is null")
    return int(count)
