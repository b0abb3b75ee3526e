"""Who may remove a sandbox that no task is named for: nobody, while the process that made it lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from infra.tables import Attempt
from infra.tasks import records
from tests.integration.workers.conftest import PoolProcess
from tests.world import World
from workers.sandbox import directory
from workers.sandbox.base import Driver, EngineUnavailableError
from workers.sandbox.hold import held_ids, hold_new, unless_held
from workers.sandbox.local import LocalDriver
from workers.sweep import Sweeper

Start = Callable[..., PoolProcess]


@pytest.fixture
def sweeper(world: World, driver: Driver) -> Sweeper:
    """Another worker of the same host."""
    return Sweeper(world.services, driver, may_act=lambda: True)


def test_what_waits_outlives_the_sweep_of_a_sibling_and_not_its_own_worker(
    pool: Start, driver: Driver, sweeper: Sweeper, run_dir: Path
) -> None:
    living, dying = pool(), pool()
    living.ask("until", ready=2)
    dying.ask("until", ready=2)
    taken = living.ask("take")
    living.ask("close")
    assert len(driver.leftovers()) == 3
    sweeper.remove_leftovers()
    assert len(driver.leftovers()) == 3
    dying.kill()
    sweeper.remove_leftovers()
    assert driver.leftovers() == [taken]  # in nobody's row yet, and in somebody's hands
    assert held_ids(run_dir) == [taken]
    living.kill()
    sweeper.remove_leftovers()
    assert driver.leftovers() == []
    assert held_ids(run_dir) == []


def test_a_row_takes_over_from_the_hold(pool: Start, driver: Driver, sweeper: Sweeper, world: World) -> None:
    process = pool(size=1)
    process.ask("until", ready=1)
    taken = process.ask("take")
    process.ask("close")
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        records.record_sandbox(tx, lease, taken)
    process.ask("give_up_holds")
    sweeper.remove_leftovers()
    assert driver.leftovers() == [taken]
    with world.services.database.begin() as connection:
        connection.execute(update(Attempt).values(sandbox_id=None))
    sweeper.remove_leftovers()
    assert driver.leftovers() == []


@pytest.mark.parametrize("kind", ["local"])
def test_a_hold_whose_sandbox_never_came_to_be_is_removed(sweeper: Sweeper, driver: Driver, run_dir: Path) -> None:
    assert isinstance(driver, LocalDriver)
    sandbox_id, hold = hold_new(run_dir)
    sweeper.remove_leftovers()
    assert held_ids(run_dir) == [sandbox_id]
    hold.give_up(forget=False)
    sweeper.remove_leftovers()
    assert held_ids(run_dir) == []


def test_a_hold_is_one_s_own_until_it_is_given_up(run_dir: Path) -> None:
    sandbox_id, hold = hold_new(run_dir)
    with unless_held(run_dir, sandbox_id) as free:
        assert not free
    assert held_ids(run_dir) == [sandbox_id]
    hold.give_up()
    hold.give_up()
    assert held_ids(run_dir) == []
    with unless_held(run_dir, sandbox_id) as free:
        assert free


def test_a_hold_stays_when_what_it_stands_for_could_not_be_removed(run_dir: Path) -> None:
    sandbox_id, hold = hold_new(run_dir)
    directory.make(run_dir, sandbox_id)
    hold.give_up(forget=False)

    def fail() -> None:
        with unless_held(run_dir, sandbox_id):
            raise EngineUnavailableError("away")

    with pytest.raises(EngineUnavailableError):
        fail()
    assert held_ids(run_dir) == [sandbox_id]
