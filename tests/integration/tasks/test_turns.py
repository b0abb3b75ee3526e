"""Whose turn it is: the order of the line, limits that hold however claims race, and which wake-ups are due."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import text, update

from infra import limits
from infra.tables import Task
from infra.tasks import transitions, turns
from infra.tasks.states import Status
from infra.tasks.transitions import Lease
from infra.tasks.turns import Wanted
from tests.world import World

RACERS = 12


def next_for(world: World, named: UUID, worker: UUID, *, user_limit: int = 100) -> UUID | None:
    """Which task a free slot takes when a wake-up for `named` comes to it."""
    claimed = turns.claim_next(
        world.services.tasks, named, worker_id=worker, worker_name="w", sandbox="local", user_limit=user_limit
    )
    return None if claimed is None else claimed[0].task_id


def head(world: World, *, limit: int = 10, user_limit: int = 100) -> list[UUID]:
    with world.services.database.read() as connection:
        return [wanted.task_id for wanted in turns.head(connection, limit=limit, user_limit=user_limit)]


def due(world: World, *, limit: int = 100, user_limit: int = 100) -> list[Wanted]:
    with world.services.database.read() as connection:
        return list(turns.due(connection, limit=limit, user_limit=user_limit))


def set_limit(world: World, name: str, value: int | None) -> None:
    with world.services.database.begin() as connection:
        limits.change(connection, name, value)


def set_columns(world: World, *tasks: UUID, **values: object) -> None:
    with world.services.database.begin() as connection:
        connection.execute(update(Task).where(Task.id.in_(tasks)).values(**values))


def at_once(count: int, do: Callable[[int], object]) -> None:
    """`do` on so many threads, which begin together."""
    start = threading.Barrier(count)
    problems: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(30)
            do(number)
        except BaseException as problem:  # noqa: BLE001  (raised below)
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems


def claimed_at_once(world: World, tasks: list[UUID], *, user_limit: int) -> list[Lease]:
    """The claims that succeed, of one for each task, all at the same time."""
    worker, leases = world.worker(), list[Lease | None]()
    at_once(len(tasks), lambda number: leases.append(world.claim(tasks[number], worker, limit=user_limit)))
    return [lease for lease in leases if lease is not None]


# ---- the line ------------------------------------------------------------------------------------------------------


def test_a_user_with_a_thousand_tasks_does_not_stand_before_anothers_first(world: World) -> None:
    worker = world.worker()
    many = [world.task() for _ in range(1000)]
    assert [next_for(world, task, worker) for task in many[:3]] == many[:3]
    other = world.task(user_id=world.another_user())
    assert head(world) == [other, many[3]]
    # The wake-up that comes next is one of the many, and the other's turn it is. Then theirs again, in their order.
    assert next_for(world, many[3], worker) == other
    assert next_for(world, other, worker) == many[3]


def test_whose_tasks_run_the_least_comes_next_and_of_equals_the_oldest(world: World) -> None:
    worker = world.worker()
    ada, bob, eve = world.another_user(), world.another_user(), world.another_user()
    of = {user: [world.task(user_id=user) for _ in range(3)] for user in (ada, bob, eve)}
    for task in (of[ada][0], of[ada][1], of[bob][0]):
        assert world.claim(task, worker) is not None
    assert head(world) == [of[eve][0], of[bob][1], of[ada][2]]
    taken = [next_for(world, of[ada][2], worker) for _ in range(6)]
    assert taken == [of[eve][0], of[bob][1], of[eve][1], of[ada][2], of[bob][2], of[eve][2]]
    assert next_for(world, of[ada][2], worker) is None


def test_who_stands_in_no_line(world: World) -> None:
    resting, cancelled, limited, ready = (world.task(user_id=world.another_user()) for _ in range(4))
    set_columns(world, resting, not_before=text("now() + interval '1 hour'"))
    set_columns(world, cancelled, cancel_requested_at=text("now()"))
    set_columns(world, limited, enqueued_at=None)
    with world.services.database.begin() as connection:
        connection.execute(
            text("update users set max_concurrent_tasks = 0 where id = :id"), {"id": owner(world, limited)}
        )
    assert head(world) == [ready]
    set_columns(world, resting, cancelled, limited, ready, enqueued_at=None)
    assert due(world) == [Wanted(ready, 1)]
    worker = world.worker()
    assert next_for(world, limited, worker) == ready
    assert next_for(world, resting, worker) is None


def test_a_wake_up_that_did_not_lead_to_its_task_counts_as_not_sent(world: World) -> None:
    worker = world.worker()
    first, second = world.task(), world.task()
    other = world.task(user_id=world.another_user())
    assert next_for(world, first, worker) == first
    assert next_for(world, second, worker) == other
    assert world.row(second).enqueued_at is None
    assert due(world) == [Wanted(second, 1)]


def test_slots_that_look_at_the_same_time_take_a_task_each(world: World) -> None:
    tasks = [world.task() for _ in range(RACERS // 2)]
    tasks += [world.task(user_id=world.another_user()) for _ in range(RACERS // 2)]
    worker = world.worker()
    taken: list[UUID | None] = []
    at_once(RACERS, lambda number: taken.append(next_for(world, tasks[number], worker)))
    assert sorted(task for task in taken if task) == sorted(tasks)


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limited", ["user", "deployment"])
def test_claims_that_race_never_pass_a_limit(world: World, limited: str) -> None:
    users = [world.user_id] if limited == "user" else [world.another_user() for _ in range(RACERS)]
    if limited == "deployment":
        set_limit(world, limits.TASKS, 3)
    for _ in range(5):
        tasks = [world.task(user_id=users[number % len(users)]) for number in range(RACERS)]
        held = claimed_at_once(world, tasks, user_limit=3 if limited == "user" else 100)
        assert len(held) == 3
        for lease in held:
            with world.services.tasks.transaction() as tx:
                assert transitions.hand_over(tx, lease, "handed_over")
        for task in tasks:
            with world.services.tasks.transaction() as tx:
                transitions.request_cancel(tx, task, user_id=owner(world, task))


def test_limits_change_while_tasks_run(world: World) -> None:
    worker = world.worker()
    tasks = [world.task() for _ in range(6)]
    email = mail_of(world)

    def claims(user_limit: int = 1) -> bool:
        pending = [task for task in tasks if world.row(task).status == Status.PENDING]
        return world.claim(pending[0], worker, limit=user_limit) is not None

    assert claims()
    assert not claims()  # FARHAND_MAX_CONCURRENT_TASKS is 1
    set_limit(world, limits.TASKS_PER_USER, 2)
    assert claims()
    assert not claims()
    with world.services.database.begin() as connection:
        limits.change_of_user(connection, email.upper(), 3)
        assert limits.of_users(connection) == {email: 3}
    assert claims()
    assert not claims()
    with world.services.database.begin() as connection:
        limits.change_of_user(connection, email, None)
        limits.change(connection, limits.TASKS, 3)
        assert limits.read(connection) == {limits.TASKS: 3, limits.TASKS_PER_USER: 2}
    assert not claims(100)
    set_limit(world, limits.TASKS_PER_USER, None)
    assert not claims(100)
    set_limit(world, limits.TASKS, None)
    assert claims(100)


def test_what_is_beyond_its_users_limit_gets_no_wake_up(world: World) -> None:
    set_limit(world, limits.TASKS_PER_USER, 2)
    tasks = [world.task() for _ in range(4)]
    assert [world.row(task).enqueued_at is not None for task in tasks] == [True, True, False, False]
    assert world.row(world.task(user_id=world.another_user())).enqueued_at is not None
    assert due(world) == []
    worker = world.worker()
    leases = [world.claim(task, worker) for task in tasks[:2]]
    assert due(world) == []
    assert leases[0] is not None
    with world.services.tasks.transaction() as tx:
        assert transitions.fail(tx, leases[0], {"code": "c", "message": "m", "hint": "h"})
    # A slot of theirs is free, and whoever should have said so may be dead.
    assert due(world) == [Wanted(tasks[2], 1)]


# ---- wake-ups ------------------------------------------------------------------------------------------------------


def test_wake_ups_are_due_in_the_order_of_the_line(world: World) -> None:
    many = [world.task() for _ in range(5)]
    other = world.task(user_id=world.another_user())
    set_columns(world, *many, other, enqueued_at=text("now() - interval '31 seconds'"))
    assert [wanted.task_id for wanted in due(world, limit=3)] == [many[0], other, many[1]]
    with world.services.database.begin() as connection:
        turns.mark_sent(connection, due(world, limit=2))
    assert [wanted.task_id for wanted in due(world)] == many[1:]


def test_a_fresh_wake_up_is_not_sent_again(world: World) -> None:
    world.task()
    assert due(world) == []


def owner(world: World, task_id: UUID) -> UUID:
    user_id: UUID = world.row(task_id).user_id
    return user_id


def mail_of(world: World) -> str:
    with world.services.database.read() as connection:
        query = text("select email from users where id = :id")
        return str(connection.execute(query, {"id": world.user_id}).scalar_one())
