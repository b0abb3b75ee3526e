"""Who inherits from a dead worker of its host, and who does not: against a sweep, another heir, and its late writes."""

from __future__ import annotations

import threading
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import select, update

from infra.errors import AuthorityLostError
from infra.tables import Attempt, ModelCall, Task
from infra.tasks import budget, ownership, records, takeover, transitions
from infra.tasks.log import TaskRow
from infra.tasks.states import Status
from infra.tasks.takeover import Adoption
from infra.tasks.transitions import Lease
from tests.world import World

SANDBOX = "0123456789abcdef"


def started(world: World, worker: UUID, sandbox: str = SANDBOX) -> Lease:
    """A running task of this worker whose sandbox is named."""
    lease = world.claim(world.task(), worker)
    assert lease is not None
    with world.services.tasks.transaction() as tx:
        records.record_sandbox(tx, lease, sandbox)
    return lease


def take_over(
    world: World, dead: UUID, heir: UUID, sandboxes: dict[UUID, str], *, all_of_it: bool = True
) -> tuple[list[Adoption], list[TaskRow]]:
    with world.services.tasks.transaction() as tx:
        return takeover.take_over(tx, dead, heir=heir, sandboxes=sandboxes, all_of_it=all_of_it)


def attempts(world: World, task_id: UUID) -> list[tuple[int, UUID, str | None, str | None]]:
    with world.services.database.read() as connection:
        rows = connection.execute(select(Attempt).where(Attempt.task_id == task_id).order_by(Attempt.number)
            .with_only_columns(Attempt.number, Attempt.worker_id, Attempt.sandbox_id, Attempt.outcome))  # fmt: skip
        return [tuple(row) for row in rows]  # type: ignore[misc]


def test_an_heir_gets_a_new_attempt_in_the_same_sandbox_and_the_old_token_is_worth_nothing(world: World) -> None:
    dead, heir = world.worker(), world.worker()
    old = started(world, dead)
    budget.reserve(world.services.tasks, old, step=1, model="m", amount=Decimal("0.5"))
    (adoption,), given_back = take_over(world, dead, heir, {old.task_id: SANDBOX})

    assert given_back == []
    assert (adoption.lease.attempt, adoption.sandbox_id) == (2, SANDBOX)
    row = world.row(old.task_id)
    assert (row.status, row.worker_id, row.lease_token) == (Status.RUNNING, heir, adoption.lease.token)
    assert attempts(world, old.task_id) == [(1, dead, SANDBOX, "worker_lost"), (2, heir, SANDBOX, None)]
    assert world.events(old.task_id) == ["task_created", "task_started", "task_resumed"]
    # The call that was in the air counts, as far as nobody can tell what it has cost.
    assert (row.spent_usd, row.reserved_usd, row.deaths) == (Decimal("0.5"), 0, 1)
    with world.services.database.read() as connection:
        assert connection.execute(select(ModelCall.state)).scalar_one() == "lost"
        assert ownership.sandboxes_in_use(connection) == {SANDBOX}
    with pytest.raises(AuthorityLostError), world.services.tasks.transaction() as tx:
        transitions.hold(tx, old)


def test_what_is_not_adopted_goes_back_to_pending_if_the_heir_is_the_successor(world: World) -> None:
    dead, heir = world.worker(), world.worker()
    kept, lost = started(world, dead), started(world, dead, "another")
    adopted, given_back = take_over(world, dead, heir, {kept.task_id: SANDBOX, lost.task_id: "elsewhere"})
    assert [adoption.task.id for adoption in adopted] == [kept.task_id]
    assert [row.id for row in given_back] == [lost.task_id]
    assert world.row(lost.task_id).status == Status.PENDING
    with world.services.database.read() as connection:
        assert takeover.estate_of(connection, dead) is None


def test_a_sibling_leaves_the_rest_to_the_successor(world: World) -> None:
    dead, sibling, successor = (world.worker() for _ in range(3))
    first, second = started(world, dead), started(world, dead, "another")
    adopted, given_back = take_over(world, dead, sibling, {first.task_id: SANDBOX}, all_of_it=False)
    assert ([adoption.task.id for adoption in adopted], given_back) == ([first.task_id], [])
    assert world.row(second.task_id).lease_token == second.token
    adopted, _ = take_over(world, dead, successor, {second.task_id: "another"})
    assert [adoption.task.id for adoption in adopted] == [second.task_id]


def test_nothing_is_left_after_a_sweep_nor_for_a_sweep(world: World) -> None:
    dead, heir = world.worker(), world.worker()
    lease = started(world, dead)
    world.let_die(dead)
    assert [row.id for row in world.sweep()] == [lease.task_id]
    assert take_over(world, dead, heir, {lease.task_id: SANDBOX}) == ([], [])
    again = started(world, heir)
    take_over(world, heir, world.worker(), {again.task_id: SANDBOX})
    world.let_die(heir)
    assert world.sweep() == []


def test_who_is_taken_for_dead_inherits_nothing(world: World) -> None:
    dead, heir = world.worker(), world.worker()
    lease = started(world, dead)
    world.let_die(heir)
    world.sweep()
    assert take_over(world, dead, heir, {lease.task_id: SANDBOX}) == ([], [])
    assert world.row(lease.task_id).lease_token == lease.token


def test_an_announced_death_counts_none(world: World) -> None:
    dead, heir = world.worker(), world.worker()
    adopted, given_back = started(world, dead), started(world, dead, "another")
    world.leave(dead)
    take_over(world, dead, heir, {adopted.task_id: SANDBOX})
    for lease in (adopted, given_back):
        assert world.row(lease.task_id).deaths == 0
        assert attempts(world, lease.task_id)[0][3] == "handed_over"


def test_poison_is_not_adopted(world: World) -> None:
    dead, heir = world.worker(), world.worker()
    lease = started(world, dead)
    with world.services.database.begin() as connection:
        connection.execute(update(Task).values(deaths=transitions.MAX_DEATHS - 1))
    adopted, given_back = take_over(world, dead, heir, {lease.task_id: SANDBOX})
    assert (adopted, [row.status for row in given_back]) == ([], [Status.FAILED])


def test_of_many_heirs_and_sweepers_one_gets_each_task(world: World) -> None:
    dead = world.worker()
    leases = [started(world, dead, f"sandbox{number}") for number in range(4)]
    sandboxes = {lease.task_id: f"sandbox{number}" for number, lease in enumerate(leases)}
    world.let_die(dead)
    heirs = [world.worker() for _ in range(4)]
    taken: list[UUID] = []
    swept: list[UUID] = []

    def inherit(heir: UUID) -> None:
        taken.extend(adoption.task.id for adoption in take_over(world, dead, heir, sandboxes)[0])

    threads = [threading.Thread(target=inherit, args=(heir,)) for heir in heirs]
    threads += [threading.Thread(target=lambda: swept.extend(row.id for row in world.sweep())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken + swept) == sorted(sandboxes)
    for task_id in sandboxes:
        row = world.row(task_id)
        assert row.attempt == (2 if task_id in taken else 1)
        assert (row.status == Status.RUNNING) == (task_id in taken)
