"""What a step writes, repeated and raced: it is stored once, with its events, and `last_seq` counts exactly these."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, text

from agent_runtime.protocol import Call, Result
from infra.errors import AuthorityLostError, InvalidInputError, TaskFailedError
from infra.services import Services
from infra.tables import Message, Step, ToolCall, Tree
from infra.tasks import budget, records, transitions
from infra.tasks.budget import Payment
from infra.tasks.log import Transaction, read_events
from infra.tasks.records import NewStep
from infra.tasks.transitions import Lease
from tests.world import World

RACERS = 6
Write = Callable[[Transaction], object]


@pytest.fixture
def world(services: Services) -> World:
    return World.make(services)


def call(index: int) -> Call:
    return {"index": index, "tool_use_id": f"t{index}", "tool": "run_command", "args": {"command": f"echo {index}"}}


def result(index: int, *, tree: str | None = None, left_out: tuple[str, ...] = ()) -> Result:
    return {
        "step": 1,
        "index": index,
        "output": "out",
        "is_error": False,
        "truncated": False,
        "duration_ms": 3,
        "tree": tree,
        "parent": "0" * 40 if tree else None,
        "left_out": list(left_out),
    }


def step(number: int = 1, *, paid: Payment | None = None, **more: Any) -> NewStep:
    said = {"message_id": f"{number}.1", "role": "assistant", "text": "hi", "stop_reason": "tool_use"}
    events = (("error", {"code": "c", "message": "before"}), ("message", said))
    return NewStep(number, None, {"content": []}, "hi", more.get("inbox", ()), events, paid)


def write(world: World, do: Write) -> None:
    with world.services.tasks.single_statement() as tx:
        do(tx)


def all_at_once(world: World, lease: Lease, do: Write) -> None:
    """RACERS repeats of one write, which all wait for the task's row and are let go together."""
    threads = [threading.Thread(target=write, args=(world, do)) for _ in range(RACERS)]
    with world.services.database.begin() as connection:
        connection.execute(text("select 1 from tasks where id = :id for update"), {"id": lease.task_id})
        for thread in threads:
            thread.start()
        with world.services.database.read() as other:
            waiting = text("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = :name")
            name = world.services.database.url.database
            while other.execute(waiting, {"name": name}).scalar_one() < RACERS:
                assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()


def in_step(world: World) -> Lease:
    """A running task with one recorded step."""
    lease = world.claimed()
    write(world, lambda tx: records.record_step(tx, lease, step()))
    return lease


def rows(world: World, table: Any) -> list[Any]:
    with world.services.database.read() as connection:
        return list(connection.execute(select(*table.__table__.c)))


def test_a_step_that_is_recorded_many_times_at_once_is_recorded_once(world: World) -> None:
    lease = world.claimed()
    held = budget.reserve(world.services.tasks, lease, step=1, model="m", amount=Decimal("0.5"))
    new = step(paid=Payment(held.call_id, Decimal("0.2"), {"input_tokens": 1}))
    all_at_once(world, lease, lambda tx: records.record_step(tx, lease, new))
    row = world.row(lease.task_id)
    assert (row.spent_usd, row.reserved_usd, row.last_step) == (Decimal("0.2"), 0, 1)
    assert world.events(lease.task_id)[2:] == ["error", "message"]
    assert len(rows(world, Step)) == 1
    assert [message.role for message in rows(world, Message)] == ["user", "assistant"]


def test_calls_that_are_announced_many_times_at_once_are_recorded_once(world: World) -> None:
    lease = in_step(world)
    calls = [call(0), call(1), call(2)]
    all_at_once(world, lease, lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": calls}))
    assert world.events(lease.task_id)[4:] == ["tool_call"] * 3
    assert [(row.index, row.input) for row in rows(world, ToolCall)] == [(one["index"], one["args"]) for one in calls]


def test_a_result_that_is_sent_many_times_at_once_is_recorded_once(world: World) -> None:
    lease = in_step(world)
    write(world, lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": [call(0)]}))
    given = result(0, tree="1" * 40, left_out=("big",))
    all_at_once(world, lease, lambda tx: records.record_result(tx, lease, given, b"pack", limit=10))
    assert world.events(lease.task_id)[5:] == ["tool_result", "error"]
    assert [(row.tree, row.pack) for row in rows(world, Tree)] == [("1" * 40, b"pack")]


def test_only_calls_that_are_new_become_events(world: World) -> None:
    lease = in_step(world)
    write(world, lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": [call(1)]}))
    with world.services.tasks.single_statement() as tx:
        records.record_calls(tx, lease, {"step": 1, "calls": [call(0), call(1), call(2)]})
        published = [(event.seq, event.data["call_id"]) for event in tx.events]
    assert published == [(6, "1.0"), (7, "1.2")]
    assert world.events(lease.task_id)[4:] == ["tool_call"] * 3


def test_what_is_published_is_what_is_stored(world: World) -> None:
    lease = in_step(world)
    with world.services.tasks.transaction() as tx:
        records.record_calls(tx, lease, {"step": 1, "calls": [call(0)]})
        records.record_result(tx, lease, result(0), b"", limit=10)
        published = [event.as_json() for event in tx.events]
    with world.services.database.read() as connection:
        stored = read_events(connection, lease.task_id, after=4, limit=10).events
    assert published == stored
    assert [event["type"] for event in stored] == ["tool_call", "tool_result"]


def test_a_users_message_is_read_with_the_step_that_contains_it(world: World) -> None:
    lease = world.claimed()
    (first,) = (row.id for row in rows(world, Message))
    unread = world.row(lease.task_id).unread
    write(world, lambda tx: records.record_step(tx, lease, step(inbox=(first,))))
    write(world, lambda tx: records.record_step(tx, lease, step(2, inbox=(first,))))  # named twice, read once
    assert world.row(lease.task_id).unread == unread - 1
    assert [row.step for row in rows(world, Message) if row.role == "user"] == [1]


def test_a_result_of_a_call_that_was_never_recorded_is_refused(world: World) -> None:
    lease = in_step(world)
    with pytest.raises(InvalidInputError, match=r"1\.7"):
        write(world, lambda tx: records.record_result(tx, lease, result(7), b"", limit=10))
    assert len(world.events(lease.task_id)) == 4


@pytest.mark.parametrize("name", ["step", "calls", "result"])
def test_who_lost_the_task_while_it_waited_for_the_row_writes_nothing(world: World, name: str) -> None:
    """The lease goes while the statement is under way: it sees the row as it is when it gets it."""
    lease = in_step(world)
    write(world, lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": [call(0)]}))
    writes: dict[str, Write] = {
        "step": lambda tx: records.record_step(tx, lease, step(2)),
        "calls": lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": [call(1)]}),
        "result": lambda tx: records.record_result(tx, lease, result(0, tree="1" * 40), b"pack", limit=10),
    }
    refused: list[BaseException] = []

    def try_to_write() -> None:
        try:
            write(world, writes[name])
        except AuthorityLostError as error:
            refused.append(error)

    late = threading.Thread(target=try_to_write)
    with world.services.tasks.transaction() as tx:
        assert transitions.hand_over(tx, lease, "handed_over")
        late.start()
        waiting = text("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = :name")
        with world.services.database.read() as other:
            while not other.execute(waiting, {"name": world.services.database.url.database}).scalar_one():
                assert late.is_alive()
    late.join()
    assert len(refused) == 1
    assert len(world.events(lease.task_id)) == 5
    assert (len(rows(world, Step)), len(rows(world, ToolCall)), len(rows(world, Tree))) == (1, 1, 0)
    assert [row.output for row in rows(world, ToolCall)] == [None]


def test_packs_of_a_task_are_bounded_together_and_a_repeat_counts_once(world: World) -> None:
    lease = in_step(world)
    write(world, lambda tx: records.record_calls(tx, lease, {"step": 1, "calls": [call(0), call(1)]}))
    for _ in range(2):
        write(world, lambda tx: records.record_result(tx, lease, result(0, tree="1" * 40), b"12345", limit=9))
    with pytest.raises(TaskFailedError, match="more than 9 bytes"):
        write(world, lambda tx: records.record_result(tx, lease, result(1, tree="2" * 40), b"12345", limit=9))
    assert {row.index: row.output for row in rows(world, ToolCall)} == {0: "out", 1: None}
    write(world, lambda tx: records.record_result(tx, lease, result(1, tree="2" * 40), b"1234", limit=9))
    assert {row.index: row.pack for row in rows(world, Tree)} == {0: b"12345", 1: b"1234"}
