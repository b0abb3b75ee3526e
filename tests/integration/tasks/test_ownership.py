"""The sweep: who is lost, what becomes of their tasks, and what is sent again."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select, text, update

from infra.tables import Attempt, Task
from infra.tasks import ownership, transitions
from infra.tasks.states import Status
from tests.world import World


def test_tasks_of_live_workers_are_left_alone(world: World) -> None:
    lease = world.claimed()
    assert world.sweep() == []
    assert world.row(lease.task_id).lease_token == lease.token


def test_a_swept_worker_learns_it_from_its_heartbeat(world: World) -> None:
    worker = world.worker()
    world.let_die(worker)
    with world.services.database.begin() as connection:
        assert ownership.heartbeat(connection, worker, ttl=10).alive  # late, but nobody took its tasks
    world.let_die(worker)
    world.sweep()
    with world.services.database.begin() as connection:
        assert not ownership.heartbeat(connection, worker, ttl=10).alive


def test_a_cancel_survives_the_worker_that_should_have_done_it(world: World) -> None:
    worker = world.worker()
    lease = world.claim(world.task(), worker)
    assert lease is not None
    with world.services.tasks.transaction() as tx:
        transitions.request_cancel(tx, lease.task_id, user_id=world.user_id)
    with world.services.database.begin() as connection:
        assert ownership.cancelled(connection, worker) == (lease.task_id,)
    world.let_die(worker)
    world.sweep()
    assert world.row(lease.task_id).status == Status.CANCELLED
    assert world.events(lease.task_id)[-1] == "cancelled"


def test_a_cancel_survives_a_hand_over(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        transitions.request_cancel(tx, lease.task_id, user_id=world.user_id)
    with world.services.tasks.transaction() as tx:
        transitions.hand_over(tx, lease, "handed_over")
    with world.services.tasks.transaction() as tx:
        assert [row.status for row in ownership.cancel_unowned(tx)] == [Status.CANCELLED]


def test_poison_ends_in_failed(world: World) -> None:
    task_id = world.task()
    for _ in range(ownership.MAX_DEATHS):
        _rest_no_longer(world, task_id)
        worker = world.worker()
        assert world.claim(task_id, worker) is not None
        world.let_die(worker)
        world.sweep()
    row = world.row(task_id)
    assert row.status == Status.FAILED
    assert row.error["code"] == "worker_died_repeatedly"
    with world.services.database.begin() as connection:
        outcomes = set(connection.execute(select(Attempt.outcome)).scalars())
    assert outcomes == {"worker_lost"}


def test_a_worker_that_leaves_keeps_its_tasks_for_a_moment_and_counts_no_death(world: World) -> None:
    worker = world.worker()
    lease = world.claim(world.task(), worker)
    assert lease is not None
    world.leave(worker)
    with world.services.database.begin() as connection:
        assert not ownership.heartbeat(connection, worker, ttl=10).alive  # it can't take it back
        assert ownership.live_slots(connection) == 0
    assert world.sweep() == []
    world.let_die(worker)
    assert [row.id for row in world.sweep()] == [lease.task_id]
    row = world.row(lease.task_id)
    assert (row.status, row.deaths, row.not_before) == (Status.PENDING, 0, None)
    with world.services.database.begin() as connection:
        assert connection.execute(select(Attempt.outcome)).scalar_one() == "handed_over"


def test_a_dead_sandbox_rests_its_task(world: World) -> None:
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        transitions.give_back_after_death(tx, lease, limit=5, error=ownership.POISONED)
    assert world.row(lease.task_id).status == Status.PENDING
    assert world.claim(lease.task_id, world.worker()) is None
    _rest_no_longer(world, lease.task_id)
    assert world.claim(lease.task_id, world.worker()) is not None


def test_wake_ups_are_sent_again_in_turn_of_users(world: World) -> None:
    many = [world.task() for _ in range(5)]
    other = world.task(user_id=world.another_user())
    _age(world, [*many, other])
    with world.services.tasks.transaction() as tx:
        assert {row.id for row in ownership.due(tx, limit=2)} == {many[0], other}
    with world.services.tasks.transaction() as tx:
        assert {row.id for row in ownership.due(tx, limit=100)} == set(many[1:])
    with world.services.tasks.transaction() as tx:
        assert ownership.due(tx, limit=100) == []


def _age(world: World, tasks: list[UUID]) -> None:
    with world.services.database.begin() as connection:
        past = text("now() - interval '31 seconds'")
        connection.execute(update(Task).where(Task.id.in_(tasks)).values(enqueued_at=past))


def _rest_no_longer(world: World, task_id: UUID) -> None:
    with world.services.database.begin() as connection:
        connection.execute(update(Task).where(Task.id == task_id).values(not_before=None))
