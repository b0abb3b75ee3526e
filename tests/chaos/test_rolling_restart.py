"""All workers are restarted one after the other under load (G10): every task ends as if there had been a pause."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import pytest

from tests.chaos.stage import Followed, Stage, alive, eventually
from tests.chaos.trajectories import ROLLING_STEPS

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TASKS = 6


def test_a_rolling_restart_under_load_is_a_pause(pair: Stage) -> None:
    tasks = [pair.submit("rolling") for _ in range(TASKS)]
    for task in tasks:
        task.wait_for("tool_result")
    for number in (1, 2):
        _restart(pair, number)
    ended = [task.end() for task in tasks]

    assert any(task["attempt"] > 1 for task in ended), "the restarts hit somebody"
    ours = ", ".join(f"'{task.id}'" for task in tasks)
    assert pair.rows(f"select id from tasks where deaths <> 0 and id in ({ours})") == []
    # What was in the air is counted; for nothing else was the model asked twice.
    ((lost,),) = pair.rows(f"select count(*) from model_calls where state = 'lost' and task_id in ({ours})")
    once = TASKS * (ROLLING_STEPS + 1)
    assert once <= sum(pair.asked("rolling").values()) <= once + lost
    for task in tasks:
        assert _words(task) == [number for number in range(ROLLING_STEPS) if number not in _interrupted(task)]


def _restart(stage: Stage, number: int) -> None:
    """TERM, and wait until another process is there in its place."""
    pid = stage.worker(number)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not alive(pid), "the worker is gone", timeout=10)
    there = "select 1 from workers where swept_at is null and left_at is null and alive_until > now()"
    eventually(lambda: len(stage.rows(there)) == 2, "another one is in its place")


def _words(task: Followed) -> list[int]:
    """What its calls have left in the tree: each once and in order."""
    words = [int(word) for word in task.pushed("counter").split()]
    assert all(one < next_ for one, next_ in pairwise(words)), words
    return words


def _interrupted(task: Followed) -> set[int]:
    """Calls whose outcome was unknown, which the model was told; of these the tree may have nothing."""
    words = set(_words(task))
    results = {event["data"]["call_id"]: event["data"]["output"] for event in task.of("tool_result")}
    told = {int(call.partition(".")[0]) - 1 for call, output in results.items() if "interrupted" in output}
    return told - words
