"""Budgets: reserved before, settled after, never exceeded, and what was in the air is counted (G9)."""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest
from sqlalchemy import select

from infra.errors import AuthorityLostError, BudgetExceededError
from infra.tables import ModelCall
from infra.tasks import budget, records
from infra.tasks.budget import Hold, Payment
from infra.tasks.records import NewStep
from infra.tasks.transitions import Lease
from tests.world import World


def reserve(world: World, lease: Lease, amount: str) -> Hold:
    return budget.reserve(world.services.tasks, lease, step=1, model="m", amount=Decimal(amount))


def settle(world: World, lease: Lease, held: Hold, cost: str) -> None:
    step = NewStep(held.step, None, {}, "", (), (), Payment(held.call_id, Decimal(cost), {}))
    with world.services.tasks.single_statement() as tx:
        records.record_step(tx, lease, step)


def claimed_with(world: World, amount: str) -> Lease:
    lease = world.claim(world.task(budget=amount), world.worker())
    assert lease is not None
    return lease


def test_a_hold_counts_until_it_is_settled(world: World) -> None:
    lease = claimed_with(world, "1")
    first = reserve(world, lease, "0.6")
    with pytest.raises(BudgetExceededError):
        reserve(world, lease, "0.6")
    for _ in range(2):  # settling twice changes nothing
        settle(world, lease, first, "0.1")
    second = reserve(world, lease, "0.6")
    assert (second.try_, second.spent_before) == (2, Decimal("0.1"))
    row = world.row(lease.task_id)
    assert (row.spent_usd, row.reserved_usd) == (Decimal("0.1"), Decimal("0.6"))


def test_holds_made_at_the_same_time_never_pass_the_budget(world: World) -> None:
    lease = claimed_with(world, "1")
    outcomes: list[bool] = []

    def one() -> None:
        try:
            reserve(world, lease, "0.3")
            outcomes.append(True)
        except BudgetExceededError:
            outcomes.append(False)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 3
    assert world.row(lease.task_id).reserved_usd == Decimal("0.9")


@pytest.mark.parametrize(("close", "spent"), [("release", "0"), ("lose", "0.5")])
def test_a_hold_is_given_back_only_when_nothing_was_accepted(world: World, close: str, spent: str) -> None:
    lease = claimed_with(world, "1")
    held = reserve(world, lease, "0.5")
    for _ in range(2):  # closing twice changes nothing
        with world.services.tasks.transaction() as tx:
            getattr(budget, close)(tx, lease, held, "reason")
    row = world.row(lease.task_id)
    assert (row.spent_usd, row.reserved_usd) == (Decimal(spent), 0)


def test_what_was_in_the_air_when_its_worker_died_is_counted(world: World) -> None:
    worker = world.worker()
    lease = world.claim(world.task(), worker)
    assert lease is not None
    held = reserve(world, lease, "0.25")
    world.let_die(worker)
    world.sweep()
    assert world.claim(lease.task_id, world.worker()) is not None
    row = world.row(lease.task_id)
    assert (row.spent_usd, row.reserved_usd) == (Decimal("0.25"), 0)
    with world.services.database.begin() as connection:
        assert connection.execute(select(ModelCall.state)).scalar_one() == "lost"
    # The dead worker comes back and tries to settle: it no longer may, and nothing is counted twice.
    with pytest.raises(AuthorityLostError):
        settle(world, lease, held, "0.01")
    assert world.row(lease.task_id).spent_usd == Decimal("0.25")
    with pytest.raises(AuthorityLostError):
        reserve(world, lease, "0.01")
