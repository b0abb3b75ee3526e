"""Postgres, Redis and the API go away and come back in the middle of a task: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest
import redis

from infra.queue import AGENTS, RUN_ATTEMPT, make_celery
from tests.chaos.stage import Followed, Stage, command_of, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def finished(stage: Stage, task: Followed, *, gate: str) -> None:
    """Let the held answer end, and see that the task ended in its first attempt, without a step or a cent twice."""
    stage.model.open_gate(gate)
    ended = task.end()
    assert ended["attempt"] == 1
    assert task.pushed("counter") == "one\ntwo\nthree\n"
    assert stage.asked(gate) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_redis_dies_and_comes_back_empty(stage: Stage) -> None:
    task = stage.submit("redis")
    stage.model.wait_for_held("redis", timeout=30)
    stage.redis.stop()
    second = stage.client.submit(repo_url=stage.repo_url, prompt="do it [trajectory:plain]")
    assert second["status"] == "pending"
    stage.redis.start()
    finished(stage, task, gate="redis")
    # Its wake-up went nowhere: the sweep makes up for it, once that is old enough.
    _age_wake_up(stage, second["id"])
    follower = Followed(stage, "plain", second["id"])
    follower.end()
    assert follower.pushed("counter") == "one\n"


def test_postgres_goes_away_while_the_model_answers(stage: Stage) -> None:
    task = stage.submit("postgres")
    held = stage.model.wait_for_held("postgres", timeout=30)[0]
    stage.postgres.stop()
    try:
        # The whole answer, which is paid for, arrives while it can't be recorded.
        stage.model.open_gate("postgres")
        stage.model.wait_until(lambda _: held.delivered)
    finally:
        stage.postgres.start()
    finished(stage, task, gate="postgres")


def test_the_api_is_killed_under_a_stream(stage: Stage) -> None:
    task = stage.submit("api")
    stage.model.wait_for_held("api", timeout=30)
    task.wait_for("tool_result")
    for pid in stage.processes("gunicorn"):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: task.of_type("connection"), "the stream noticed")
    finished(stage, task, gate="api")
    assert [frame["up"] for frame in task.of_type("connection")][:2] == [False, True]


def test_the_engine_goes_away(stage: Stage) -> None:
    """What is done is not undone by it; what is to be done waits, says so, and is not taken for poison."""
    done = stage.submit("engine")
    stage.model.wait_for_held("engine", timeout=30)
    stage.engine.shut()
    try:
        stage.model.open_gate("engine")
        assert done.end()["attempt"] == 1
        waiting = stage.submit("plain")
        said = waiting.wait_for("error")["data"]
        assert said["code"] == "engine_unavailable"
        assert "trying again in" in said["message"]
    finally:
        stage.engine.open()
    assert waiting.end()["attempt"] > 1
    assert done.pushed("counter") == waiting.pushed("counter") == "one\n"
    outcomes = stage.rows("select distinct outcome from attempts where task_id = %s", waiting.id)
    assert set(outcomes) == {("outage",), ("completed",)}


def test_a_lost_wake_up_is_sent_again(stage: Stage) -> None:
    """The only slot is taken, so the wake-up of a second task waits in Redis, where it gets lost."""
    busy = stage.submit("busy")
    stage.model.wait_for_held("busy", timeout=30)
    waiting = stage.submit("plain")
    with redis.Redis.from_url(stage.settings.redis_url) as queue:
        eventually(lambda: queue.llen(AGENTS) == 1, "the wake-up waits")
        queue.delete(AGENTS)
        _age_wake_up(stage, waiting.id)
        eventually(lambda: queue.llen(AGENTS) == 1, "the sweep has sent it again", timeout=10)
    stage.model.open_gate("busy")
    busy.end()
    waiting.end()


def test_wake_ups_that_make_no_sense_cost_nothing(stage: Stage) -> None:
    worker = stage.worker()
    with make_celery(stage.settings) as celery:
        for args in (["rubbish"], [{"task_id": 7}], []):
            celery.send_task(RUN_ATTEMPT, args=args)
        celery.send_task("farhand.no_such_job", queue=AGENTS)
    stage.submit("plain").end()
    assert stage.worker() == worker
    assert "celery" in command_of(worker)


def _age_wake_up(stage: Stage, task_id: str) -> None:
    """As if the wake-up had been sent long ago: nobody waits half a minute in a test."""
    with psycopg.connect(stage.settings.database_url) as connection:
        connection.execute("update tasks set enqueued_at = now() - interval '1 minute' where id = %s", (task_id,))
