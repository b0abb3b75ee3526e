"""Tasks that kill what runs them: they rest longer each time, and end. What is nobody's fault counts as nothing."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import select, update

from infra.tables import Attempt, Task
from infra.tasks import records, transitions
from infra.tasks.log import read_events
from infra.tasks.records import NewStep
from infra.tasks.states import Status
from infra.tasks.transitions import Lease
from tests.world import World

OUT_OF_MEMORY = {"code": "sandbox_out_of_memory", "message": "the sandbox died: no memory", "hint": "Retry."}
Death = Callable[[World, Lease], None]


def sandbox_dies(world: World, lease: Lease) -> None:
    with world.services.tasks.transaction() as tx:
        transitions.give_back_after_death(tx, lease, error=OUT_OF_MEMORY)  # type: ignore[arg-type]


def worker_dies(world: World, lease: Lease) -> None:
    world.let_die(world.row(lease.task_id).worker_id)
    world.sweep()


def handed_over(world: World, lease: Lease) -> None:
    with world.services.tasks.transaction() as tx:
        assert transitions.hand_over(tx, lease, "handed_over")


def outage(world: World, lease: Lease) -> None:
    with world.services.tasks.transaction() as tx:
        assert transitions.wait_out(tx, lease, lambda rest: ("error", {"code": "c", "message": f"in {rest:.0f} s"}))


def again(world: World, task_id: UUID) -> Lease:
    """The next attempt, once the task has rested."""
    with world.services.database.begin() as connection:
        connection.execute(update(Task).where(Task.id == task_id).values(not_before=None))
    lease = world.claim(task_id, world.worker())
    assert lease is not None
    return lease


def rest_of(world: World, task_id: UUID) -> float:
    """Seconds from the moment it was given back until it may be claimed again."""
    with world.services.database.read() as connection:
        ended = select(Attempt.ended_at).where(Attempt.task_id == task_id).order_by(Attempt.number.desc()).limit(1)
        since = connection.execute(ended).scalar_one()
    until = world.row(task_id).not_before
    return 0.0 if until is None else float((until - since).total_seconds())


@pytest.mark.parametrize(
    ("dies", "rests", "code"),
    [
        (sandbox_dies, [2, 4, 8, 16], "sandbox_out_of_memory"),
        (worker_dies, [0, 4, 8, 16], "worker_died_repeatedly"),
    ],
)
def test_a_poison_task_rests_longer_each_time_and_fails_after_five(
    world: World, dies: Death, rests: list[float], code: str
) -> None:
    task_id = world.task()
    for rest in rests:
        dies(world, again(world, task_id))
        assert world.row(task_id).status == Status.PENDING
        assert rest_of(world, task_id) == rest
        if rest:
            assert world.claim(task_id, world.worker()) is None
    dies(world, again(world, task_id))
    row = world.row(task_id)
    assert (row.status, row.error["code"]) == (Status.FAILED, code)
    assert world.events(task_id)[-1] == "failed"


def test_deaths_of_both_kinds_add_up(world: World) -> None:
    task_id = world.task()
    for dies in (sandbox_dies, worker_dies, sandbox_dies, worker_dies):
        dies(world, again(world, task_id))
    sandbox_dies(world, again(world, task_id))
    assert world.row(task_id).status == Status.FAILED


@pytest.mark.parametrize("given_back", [handed_over, outage])
def test_what_is_nobodys_fault_counts_as_no_death(world: World, given_back: Death) -> None:
    task_id = world.task()
    worker_dies(world, again(world, task_id))
    for _ in range(2 * transitions.MAX_DEATHS):
        given_back(world, again(world, task_id))
    row = world.row(task_id)
    assert (row.status, row.deaths) == (Status.PENDING, 1)


def test_what_waits_for_an_outage_to_end_asks_less_and_less_often_and_says_so(world: World) -> None:
    task_id = world.task()
    rests = [5, 10, 20, 40, 60, 60]
    for rest in rests:
        outage(world, again(world, task_id))
        assert rest_of(world, task_id) == rest
    with world.services.database.read() as connection:
        page = read_events(connection, task_id, after=0, limit=100).events
    said = [event["data"]["message"] for event in page if event["type"] == "error"]
    assert said == [f"in {rest} s" for rest in rests]
    worker_dies(world, again(world, task_id))  # so it is not away all the time
    outage(world, again(world, task_id))
    assert rest_of(world, task_id) == 5
    outage(world, again(world, task_id))
    lease = again(world, task_id)
    with world.services.tasks.single_statement() as tx:
        records.record_step(tx, lease, NewStep(1, None, {"content": []}, "", (), ()))
    outage(world, lease)
    assert rest_of(world, task_id) == 5, "it went forward in between"


def test_a_step_forward_makes_good_for_the_deaths_before_it(world: World) -> None:
    task_id = world.task()
    for _ in range(transitions.MAX_DEATHS - 1):
        worker_dies(world, again(world, task_id))
    lease = again(world, task_id)
    with world.services.tasks.single_statement() as tx:
        records.record_step(tx, lease, NewStep(1, None, {"content": []}, "", (), ()))
    worker_dies(world, lease)
    row = world.row(task_id)
    assert (row.status, row.deaths, row.spent_usd) == (Status.PENDING, 1, Decimal(0))


def test_a_retry_by_the_user_begins_to_count_anew(world: World) -> None:
    task_id = world.task()
    for _ in range(transitions.MAX_DEATHS):
        worker_dies(world, again(world, task_id))
    with world.services.tasks.transaction() as tx:
        assert transitions.retry(tx, task_id, user_id=world.user_id, budget_usd=None).deaths == 0
    worker_dies(world, again(world, task_id))
    assert world.row(task_id).status == Status.PENDING
