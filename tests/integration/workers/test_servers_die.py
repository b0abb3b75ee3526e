"""Redis and Postgres go away under real workers, and come back: work goes on by itself, and nothing is lost."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text, update

from infra.db import patiently
from infra.queue import AGENTS, RUN_ATTEMPT
from infra.services import Services
from infra.tables import Task, Worker
from infra.tasks.states import Status
from tests.integration.workers.worker_process import Crew, a_crew
from tests.run_dir import new_run_dir
from tests.services import Postgres, Redis, make_settings

RESTARTS = 20
TTL_S = 1.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Redis]:
    """It is stopped by SIGKILL, and starts empty."""
    server = Redis()
    server._server._stop_signal = signal.SIGKILL
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def shared_crew(postgres: Postgres, broker: Redis) -> Iterator[Crew]:
    """Two workers of one slot each, whose lease is short."""
    directory = Path(tempfile.mkdtemp(prefix="fh-crew-"))
    directory.chmod(0o755)
    url = postgres.create_database()
    with new_run_dir() as run_dir:
        services = Services.open(make_settings(database_url=url, redis_url=broker.url, run_dir=run_dir))
        try:
            with a_crew(services, directory, workers=2, FARHAND_LEASE_TTL=f"{TTL_S:g}") as crew:
                yield crew
        finally:
            services.close()
            shutil.rmtree(directory)
    postgres.drop_database(url)


@pytest.fixture
def crew(shared_crew: Crew) -> Iterator[Crew]:
    """After the test both workers still live, and have given everything back."""
    yield shared_crew
    with shared_crew.services.database.read() as connection:
        assert connection.execute(select(Worker.swept_at)).scalars().all() == [None, None]
        assert connection.execute(select(Task.id).where(Task.status == Status.RUNNING)).all() == []


def took(crew: Crew, words: str) -> bool:
    return any(worker.count(words) for worker in crew.workers)


def test_workers_consume_again_however_often_redis_is_restarted(crew: Crew, broker: Redis) -> None:
    """One of them is busy all the time: its task does not notice."""
    busy = crew.task("busy", held=True)
    crew.running(busy)
    for number in range(RESTARTS):
        broker.stop()
        broker.start()
        crew.services.celery.send_task(RUN_ATTEMPT, args=[f"restart {number};"], retry=True)
        crew.until(partial(took, crew, f"restart {number};"), "the idle worker took a message")
    crew.release("busy")
    assert crew.ended(busy).attempt == 1
    # The one that was busy takes messages, too: both are wanted for these.
    both = [crew.task(name, held=True) for name in ("left", "right")]
    for task in both:
        crew.running(task)
    crew.release("left")
    crew.release("right")
    assert [crew.ended(task).status for task in both] == [Status.COMPLETED] * 2


def test_redis_is_gone_while_tasks_end_and_others_come(crew: Crew, broker: Redis) -> None:
    running = crew.task("before", held=True)
    crew.running(running)
    broker.stop()
    try:
        waiting = crew.task("meanwhile")
        crew.release("before")
        ended = crew.ended(running)
        assert (ended.status, ended.attempt) == (Status.COMPLETED, 1)
        assert crew.services.wake_ups.outbox.flush(30)
        assert crew.world.row(waiting).status == Status.PENDING
    finally:
        broker.start()
    age_wake_up(crew, waiting)
    assert crew.ended(waiting).status == Status.COMPLETED


def test_postgres_is_gone_for_longer_than_a_lease(crew: Crew, postgres: Postgres) -> None:
    """Both workers have a task, and look dead to each other when it comes back."""
    tasks = [crew.task(name, held=True) for name in ("one", "two")]
    for task in tasks:
        crew.running(task)
    failed = [worker.count("heartbeat_failed") for worker in crew.workers]
    postgres.stop()
    try:
        crew.release("one")  # its result can't be recorded before Postgres is back
        for worker, before in zip(crew.workers, failed, strict=True):
            worker.wait_for("heartbeat_failed", more_than=before + 6)  # one each third of the ttl
    finally:
        postgres.start()
    crew.release("two")
    for task in tasks:
        ended = crew.ended(task)
        assert (ended.status, ended.attempt, ended.deaths) == (Status.COMPLETED, 1, 0)
    assert not took(crew, "worker_swept")


def test_postgres_is_restarted_under_idle_workers(crew: Crew, postgres: Postgres) -> None:
    for number in range(3):
        postgres.stop()
        postgres.start()
        assert crew.ended(patiently(partial(crew.task, f"idle{number}"))).attempt == 1


def test_a_thousand_tasks_of_one_user_do_not_delay_anothers_first(crew: Crew) -> None:
    running = [crew.task(name, held=True) for name in ("hog1", "hog2")]
    for task in running:
        crew.running(task)
    many = crew.world.many_tasks(1000)
    for task in many:
        crew.services.wake_ups.send(task, 1)
    other = crew.task("other", user_id=crew.world.another_user(), held=True)
    assert crew.services.wake_ups.outbox.flush(30)
    assert crew.services.bus.redis.llen(AGENTS) == 1001
    try:
        crew.release("hog1")
        crew.running(other)
        with crew.services.database.read() as connection:
            started = select(Task.id).where(Task.attempt > 0, Task.id.in_(many))
            assert connection.execute(started).all() == []
    finally:
        with crew.services.database.begin() as connection:
            connection.execute(delete(Task).where(Task.id.in_(many), Task.status == Status.PENDING))
        crew.release("hog2")
        crew.release("other")
    assert [crew.ended(task).status for task in (*running, other)] == [Status.COMPLETED] * 3


def age_wake_up(crew: Crew, task: object) -> None:
    """As if it had been sent long ago: nobody waits half a minute in a test."""
    with crew.services.database.begin() as connection:
        past = text("now() - interval '1 minute'")
        connection.execute(update(Task).where(Task.id == task).values(enqueued_at=past))
