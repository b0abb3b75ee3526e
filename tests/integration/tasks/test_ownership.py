"""The sweep: who is lost, what becomes of their tasks, and what is sent again."""

from __future__ import annotations

from sqlalchemy import select

from infra.tables import Attempt
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
        assert [row.status for row in transitions.cancel_unowned(tx)] == [Status.CANCELLED]


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
