"""The connection to Postgres breaks in the middle of a commit: was it carried out? Either way it is as if done once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from api.actions import StartTask, send_message, start_task
from infra.db import patiently
from infra.errors import AuthorityLostError, UnavailableError
from infra.services import Services
from infra.settings import Settings
from infra.tables import Step, Task, ToolCall, Tree
from infra.tasks import budget, ownership, records, transitions, turns
from infra.tasks.budget import Payment
from infra.tasks.log import Transaction
from infra.tasks.records import NewStep
from infra.tasks.states import Status
from infra.tasks.transitions import Lease
from tests.cut_proxy import CutProxy, When
from tests.world import World

ERROR: Any = {"code": "c", "message": "m", "hint": "h"}
REQUEST = {"repo_url": "https://example.com/owner/name", "prompt": "p", "model": "claude-sonnet"}


@pytest.fixture
def proxy(database_url: str) -> Iterator[CutProxy]:
    with CutProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Tests look at the database directly; what they test goes through the proxy."""
    return settings.model_copy(update={"workers_have_model_key": True})


@pytest.fixture
def cut_off(settings: Settings, proxy: CutProxy) -> Iterator[Services]:
    """A process of the deployment whose connection can be cut."""
    opened = Services.open(settings.model_copy(update={"database_url": proxy.url}))
    yield opened
    opened.close()


@pytest.fixture(params=["before", "after"])
def when(request: pytest.FixtureRequest) -> When:
    when: When = request.param
    return when


def tasks_there(world: World) -> list[UUID]:
    with world.services.database.read() as connection:
        return list(connection.execute(select(Task.id)).scalars())


def count(world: World, table: Any) -> int:
    with world.services.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


# ---- the API -------------------------------------------------------------------------------------------------------


def test_a_task_that_is_posted_again_with_its_key_is_there_once(
    world: World, cut_off: Services, proxy: CutProxy, when: When
) -> None:
    post = partial(start_task, cut_off, world.user_id, StartTask.model_validate(REQUEST), key="k")
    done = proxy.cut("idempotency_keys", when)
    with pytest.raises(UnavailableError):
        post()
    assert done.wait(10)
    assert len(tasks_there(world)) == (when == "after")
    answer = post()
    assert answer.replayed == (when == "after")
    assert [str(task) for task in tasks_there(world)] == [answer.task["id"]]
    assert world.events(tasks_there(world)[0]) == ["task_created"]


def test_a_task_whose_answer_was_lost_is_run_like_any_other(world: World, cut_off: Services, proxy: CutProxy) -> None:
    done = proxy.cut("insert into tasks", "after", commit="insert into tasks")
    with pytest.raises(UnavailableError):
        start_task(cut_off, world.user_id, StartTask.model_validate(REQUEST))
    assert done.wait(10)
    (task_id,) = tasks_there(world)
    assert world.events(task_id) == ["task_created"]
    assert world.claim(task_id, world.worker()) is not None


def test_a_message_that_is_sent_again_with_its_key_is_there_once(
    world: World, cut_off: Services, proxy: CutProxy, when: When
) -> None:
    task_id = world.task()
    send = partial(send_message, cut_off, world.user_id, task_id, "more", key="k")
    proxy.cut("INSERT INTO messages", when)
    with pytest.raises(UnavailableError):
        send()
    send()
    assert world.events(task_id) == ["task_created", "message"]
    assert world.row(task_id).unread == 2


# ---- a worker ------------------------------------------------------------------------------------------------------


def test_a_claim_that_nobody_heard_of_is_known_from_the_next_heartbeat(
    world: World, cut_off: Services, proxy: CutProxy, when: When
) -> None:
    task_id, worker_id = world.task(), world.worker()
    proxy.cut("UPDATE tasks", when)
    with pytest.raises(UnavailableError):
        turns.claim_next(cut_off.tasks, task_id, worker_id=worker_id, worker_name="w", sandbox="local", user_limit=10)
    with world.services.database.begin() as connection:
        held = ownership.heartbeat(connection, worker_id, ttl=10).held
    assert [lease.task_id for lease in held] == ([task_id] if when == "after" else [])
    for lease in held:
        with world.services.tasks.transaction() as tx:
            assert transitions.hand_over(tx, lease, "outage")
    again = world.claim(task_id, worker_id)
    assert again is not None
    assert (again.attempt, world.row(task_id).deaths) == (1 + len(held), 0)


def write(services: Services, do: Callable[[Transaction], object]) -> None:
    """As a worker writes what it records: again and again until it knows."""

    def once() -> None:
        with services.tasks.single_statement() as tx:
            do(tx)

    patiently(once)


def test_what_a_step_records_is_recorded_once(world: World, cut_off: Services, proxy: CutProxy, when: When) -> None:
    lease = world.claimed()
    held = budget.reserve(world.services.tasks, lease, step=1, model="m", amount=Decimal("0.5"))
    said = {"message_id": "1.1", "role": "assistant", "text": "hi", "stop_reason": "tool_use"}
    step = NewStep(1, None, {}, "hi", (), (("message", said),), Payment(held.call_id, Decimal("0.2"), {}))
    call: Any = {"index": 0, "tool_use_id": "t", "tool": "run_command", "args": {"command": "true"}}
    result: Any = {
        "step": 1,
        "index": 0,
        "output": "out",
        "is_error": False,
        "truncated": False,
        "duration_ms": 3,
        "tree": "1" * 40,
        "parent": "0" * 40,
        "left_out": [],
    }
    writes: dict[str, Callable[[Transaction], object]] = {
        "insert into steps": lambda tx: records.record_step(tx, lease, step),
        "insert into tool_calls": lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": [call]}),
        "update tool_calls": lambda tx: records.record_result(tx, lease, result, b"pack", limit=10),
    }
    for statement, do in writes.items():
        done = proxy.cut(statement, when, commit=statement)
        write(cut_off, do)
        assert done.wait(10)
    assert world.events(lease.task_id)[2:] == ["message", "tool_call", "tool_result"]
    assert [count(world, table) for table in (Step, ToolCall, Tree)] == [1, 1, 1]
    row = world.row(lease.task_id)
    assert (row.spent_usd, row.reserved_usd, row.last_step) == (Decimal("0.2"), 0, 1)


ENDINGS: dict[str, tuple[Callable[[Transaction, Lease], object], Status]] = {
    "fail": (lambda tx, lease: transitions.fail(tx, lease, ERROR), Status.FAILED),
    "cancelled": (
        lambda tx, lease: transitions.confirm_cancelled(tx, lease, confirmed_dead_ms=None),
        Status.CANCELLED,
    ),
    "hand over": (lambda tx, lease: transitions.hand_over(tx, lease, "handed_over"), Status.PENDING),
    "death": (
        lambda tx, lease: transitions.give_back_after_death(tx, lease, error=ERROR),
        Status.PENDING,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_attempt_ends_once(world: World, cut_off: Services, proxy: CutProxy, when: When, name: str) -> None:
    """As `Attempt._persist` does it: a repeat finds the lease gone, or does what was not done."""
    lease = world.claimed()
    end, status = ENDINGS[name]

    def once() -> None:
        with cut_off.tasks.transaction() as tx:
            end(tx, lease)

    done = proxy.cut("UPDATE tasks", when)
    # Of a death that was recorded the repeat says that the lease is gone; the other endings find nothing to do.
    with pytest.raises(AuthorityLostError) if (name, when) == ("death", "after") else nullcontext():
        patiently(once)
    assert done.wait(10)
    row = world.row(lease.task_id)
    assert (row.status, row.deaths, row.lease_token) == (status, int(name == "death"), None)
    assert len(world.events(lease.task_id)) == 2 + (status in {Status.FAILED, Status.CANCELLED})
