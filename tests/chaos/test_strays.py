"""What hangs or gets lost around an attempt: a remote that is silent, a claim that nobody heard of."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psycopg
import pytest

from tests.chaos.stage import Stage, alive, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def silent_remote(stage: Stage) -> Iterator[None]:
    """The git host takes requests and answers none, until the test is over or calls `resume`."""
    stage.git_host.hang()
    yield
    stage.git_host.resume()


def asked_the_remote(stage: Stage, before: int) -> None:
    stage.git_host.wait_until(lambda requests: len(requests) > before, timeout=30)


@pytest.mark.usefixtures("silent_remote")
def test_a_cancel_does_not_wait_for_a_silent_remote(stage: Stage) -> None:
    before = len(stage.git_host.requests)
    task = stage.submit("plain")
    asked_the_remote(stage, before)
    stage.client.cancel(task.id)
    assert task.end("cancelled")["attempt"] == 1
    assert task.events[-1]["data"]["confirmed_dead_ms"] < 2000


@pytest.mark.usefixtures("silent_remote")
def test_term_does_not_wait_for_a_silent_remote(stage: Stage) -> None:
    before = len(stage.git_host.requests)
    task = stage.submit("plain")
    asked_the_remote(stage, before)
    pid = stage.worker()
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not alive(pid), "the worker is gone", timeout=10)
    stage.git_host.resume()
    task.end()
    assert task.of("task_resumed")[0]["data"]["reason"] == "handed_over"


def test_a_claim_whose_answer_was_lost_is_given_back(stage: Stage) -> None:
    """Postgres has committed a claim, and the connection broke before the worker heard of it."""
    busy = stage.submit("elsewhere")
    stage.model.wait_for_held("elsewhere", timeout=30)
    stray = stage.submit("plain")
    with psycopg.connect(stage.settings.database_url) as connection:
        connection.execute(
            "with claimed as ("
            " update tasks t set status = 'running', attempt = 1, lease_token = gen_random_uuid(),"
            " worker_id = o.worker_id from tasks o where t.id = %s and o.id = %s"
            " returning t.id, t.attempt, t.worker_id)"
            " insert into attempts (task_id, number, worker_id) select * from claimed",
            (stray.id, busy.id),
        )
    stage.model.open_gate("elsewhere")
    busy.end()
    assert stray.end()["attempt"] == 2


def test_a_model_that_says_what_no_database_holds(stage: Stage) -> None:
    """NUL: else its answer could never be recorded, and would be paid again and again."""
    task = stage.submit("unholdable")
    task.end()
    assert "NUL" in task.output("1.0")
    assert task.pushed("counter") == "one\n"
    assert stage.asked("unholdable") == {0: 1, 1: 1, 2: 1}
