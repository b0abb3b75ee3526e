"""The sweep with a real queue: it makes up for what is lost, floods nothing, and any number of workers may do it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import select, text, update

from infra import limits
from infra.queue import AGENTS, queue_length
from infra.services import Services
from infra.tables import Attempt, Task
from infra.tasks import transitions
from infra.tasks.states import Status
from tests.services import Redis
from tests.world import World
from workers.sandbox.local import LocalDriver
from workers.sweep import Sweeper

SLOTS = 4
"""Of each of the workers that `World.worker` makes."""


def a_sweeper(services: Services, *, may_act: bool = True) -> Sweeper:
    return Sweeper(services, LocalDriver(services.settings), may_act=lambda: may_act)


def at_once(*steps: Callable[[], None]) -> None:
    start = threading.Barrier(len(steps))
    problems: list[BaseException] = []

    def run(step: Callable[[], None]) -> None:
        try:
            start.wait(30)
            step()
        except BaseException as problem:  # noqa: BLE001  (raised below)
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems


def queued(services: Services) -> list[UUID]:
    """The tasks that are named by the wake-ups in the queue, in order."""
    messages: Sequence[str] = services.bus.redis.lrange(AGENTS, 0, -1)  # type: ignore[assignment]
    mark = '"id": "'
    return [UUID(one.partition(mark)[2].partition(".")[0]) for one in reversed(messages)]


def owners(world: World, tasks: Sequence[UUID]) -> set[UUID]:
    with world.services.database.read() as connection:
        return set(connection.execute(select(Task.user_id).where(Task.id.in_(tasks))).scalars())


def test_ten_thousand_pending_tasks_flood_no_queue(world: World) -> None:
    services = world.services
    people = [replace(world, user_id=world.another_user()) for _ in range(SLOTS)]
    for one in people:
        one.many_tasks(10_000 // len(people))
    users = [one.user_id for one in people]
    world.worker()
    world.worker()
    sweepers = [a_sweeper(services) for _ in range(4)]
    for _ in range(3):
        at_once(*(sweeper.send_again for sweeper in sweepers))
        assert queue_length(services.celery, AGENTS) == 2 * 2 * SLOTS
    named = queued(services)
    assert len(set(named)) == len(named)
    # In turn of their users: each group of as many tasks as there are users has one of each.
    for start in range(0, len(named), len(users)):
        assert owners(world, named[start : start + len(users)]) == set(users)
    services.bus.redis.rpop(AGENTS)
    at_once(*(sweeper.send_again for sweeper in sweepers))
    assert queue_length(services.celery, AGENTS) == 2 * 2 * SLOTS


def test_without_a_live_worker_nothing_is_sent(world: World) -> None:
    world.many_tasks(3)
    world.let_die(world.worker())
    a_sweeper(world.services).send_again()
    assert queue_length(world.services.celery, AGENTS) == 0


def test_what_could_not_be_sent_is_not_taken_for_sent(world: World, redis_server: Redis) -> None:
    world.many_tasks(3)
    world.worker()
    sweeper = a_sweeper(world.services)
    redis_server.stop()
    try:
        sweeper._try(sweeper.send_again)
    finally:
        redis_server.start()
    with world.services.database.read() as connection:
        assert set(connection.execute(select(Task.enqueued_at)).scalars()) == {None}
    sweeper.send_again()
    assert len(queued(world.services)) == 3


def test_a_redis_that_came_back_empty_is_filled_again(world: World) -> None:
    tasks = [world.task() for _ in range(3)]
    world.worker()
    sweeper = a_sweeper(world.services)
    sweeper.send_again()
    assert queued(world.services) == []  # as if it had just lost them: they may as well be under way
    with world.services.database.begin() as connection:
        connection.execute(update(Task).values(enqueued_at=text("now() - interval '31 seconds'")))
    sweeper.send_again()
    sweeper.send_again()
    assert queued(world.services) == tasks


def test_a_released_slot_wakes_a_task_of_its_user(world: World) -> None:
    """The worker that ended the running one may have died before it told anybody."""
    with world.services.database.begin() as connection:
        limits.change(connection, limits.TASKS_PER_USER, 1)
    worker = world.worker()
    lease = world.claim(world.task(), worker)
    following = world.task()
    sweeper = a_sweeper(world.services)
    sweeper.send_again()
    assert queued(world.services) == []
    assert lease is not None
    with world.services.tasks.transaction() as tx:
        assert transitions.fail(tx, lease, transitions.POISONED)
    sweeper.send_again()
    assert queued(world.services) == [following]


def test_sweepers_at_once_take_each_task_back_once(world: World) -> None:
    leases = []
    for _ in range(6):
        worker = world.worker()
        leases += [world.claim(world.task(), worker) for _ in range(5)]
        world.let_die(worker)
    at_once(*(a_sweeper(world.services).take_back for _ in range(4)))
    with world.services.database.read() as connection:
        rows = connection.execute(select(Task.status, Task.deaths, Task.lease_token, Task.last_seq)).all()
        outcomes = connection.execute(select(Attempt.outcome)).scalars().all()
    assert len(leases) == len(rows) == 30
    assert set(rows) == {(Status.PENDING, 1, None, 2)}
    assert outcomes == ["worker_lost"] * 30


def test_a_sweeper_that_may_not_judge_takes_nothing(world: World) -> None:
    lease = world.claimed()
    world.let_die(world.row(lease.task_id).worker_id)
    a_sweeper(world.services, may_act=False).take_back()
    assert world.row(lease.task_id).lease_token == lease.token
    a_sweeper(world.services).take_back()
    assert world.row(lease.task_id).status == Status.PENDING
