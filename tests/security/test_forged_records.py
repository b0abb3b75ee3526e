"""Attacks of a loop that was taken over: it has the link, and says there whatever it wants to.

Commands cannot open the link; should one find a way, these say what it would win: nothing beyond its own task, no
money beyond its budget, no history that did not happen.
"""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import insert, select

from agent_runtime.protocol import HEADER_STEP
from infra.ids import new_id
from infra.tables import Message, ModelCall, Step, ToolCall, Tree
from infra.tasks import records
from tests.integration.relay.stage import RESULT, Attempt, Sandbox
from tests.security.taken_over import ASK, CALLS, ask, count, result, snapshot
from tests.standin.model import ModelStandIn
from tests.world import World


def test_writing_records_of_another_task(attempt: Attempt, loop: Sandbox, world: World) -> None:
    """Whose records they are is said by the lease; what the sandbox says of it is not read."""
    other = world.claimed()
    before = snapshot(world, other.task_id)
    named = {"task_id": str(other.task_id), "attempt": other.attempt, "lease_token": str(other.token)}
    headers = {"Farhand-Task": str(other.task_id), "Farhand-Attempt": "1"}
    assert loop.ask("POST", "/v1/messages", ASK | named, **{HEADER_STEP: "1"}, **headers)[0] == 200
    assert loop.ask("POST", "/calls", CALLS | named, **headers)[0] == 200
    assert loop.ask("POST", "/results", result(**named), **headers)[0] == 200
    assert loop.ask("POST", f"/tasks/{other.task_id}/calls", CALLS)[0] == 400
    assert loop.ask("GET", f"/job?task_id={other.task_id}")[1].get("task_id") != str(other.task_id)
    assert snapshot(world, other.task_id) == before
    assert world.row(attempt.lease.task_id).last_step == 1


def test_taking_the_message_that_a_user_sent_to_another_task(loop: Sandbox, world: World) -> None:
    theirs = world.task(user_id=world.another_user())
    with world.services.database.begin() as connection:
        message = connection.execute(select(Message.id).where(Message.task_id == theirs)).scalar_one()
    assert ask(loop, inbox=f"{message},{uuid4()}")[0] == 200
    with world.services.database.begin() as connection:
        assert connection.execute(select(Message.step).where(Message.id == message)).scalar_one() is None
    assert world.row(theirs).unread == 1


def test_announcing_calls_that_the_model_did_not_make(attempt: Attempt, loop: Sandbox, world: World) -> None:
    call = CALLS["calls"][0]
    before = snapshot(world, attempt.lease.task_id)
    assert loop.ask("POST", "/calls", CALLS)[0] == 400, "no step is recorded"
    ask(loop)
    for step, index in ((1, 1), (1, -1), (2, 0), (0, 0), (10**30, 0), (1, 10**30), (1, "0"), (1, None), (1, True)):
        refused = loop.ask("POST", "/calls", {"step": step, "calls": [{**call, "index": index}]})
        assert refused[0] == 400, (step, index, refused)
    assert count(world, ToolCall) == 0
    assert snapshot(world, attempt.lease.task_id) > before


def test_passing_a_call_off_as_another_than_the_model_made(attempt: Attempt, loop: Sandbox) -> None:
    """What the user sees of a call is what the model said, whatever the sandbox says that it was."""
    ask(loop)
    forged = {"index": 0, "tool_use_id": "toolu_9", "tool": "read_file", "args": {"path": "harmless"}}
    assert loop.ask("POST", "/calls", {"step": 1, "calls": [forged]})[0] == 200
    with attempt.world.services.database.begin() as connection:
        (call,) = connection.execute(select(ToolCall.tool_name, ToolCall.input, ToolCall.tool_use_id)).all()
    assert tuple(call) == ("run_command", {"command": "true"}, "toolu_1")


def test_a_result_of_a_call_that_was_never_announced(attempt: Attempt, loop: Sandbox, world: World) -> None:
    ask(loop)
    for forged in ({}, {"step": 2}, {"index": 7}, {"index": -1}, {"step": 10**30}, {"index": 1.5}, {"step": "1"}):
        assert loop.ask("POST", "/results", result(**forged))[0] == 400, forged
    assert world.events(attempt.lease.task_id)[-1] == "usage"
    assert count(world, Tree) == 0


def test_telling_a_result_once_more_and_differently(attempt: Attempt, loop: Sandbox) -> None:
    ask(loop)
    loop.ask("POST", "/calls", CALLS)
    assert loop.ask("POST", "/results", result(output="first"))[0] == 200
    before = attempt.world.events(attempt.lease.task_id)
    assert loop.ask("POST", "/results", result(output="second", tree="c" * 40) + b"PACK")[0] == 200
    with attempt.world.services.database.begin() as connection:
        (call,) = records.recorded_calls(connection, attempt.lease.task_id, 1)
        (tree,) = records.trees(connection, attempt.lease.task_id)
    assert (call["output"], tree.tree) == ("first", RESULT["tree"])
    assert attempt.world.events(attempt.lease.task_id) == before


def test_rewriting_a_step_that_is_recorded(attempt: Attempt, loop: Sandbox, model: ModelStandIn) -> None:
    ask(loop)
    forged = [{"role": "user", "content": "something else"}]
    assert "message_stop" in ask(loop, messages=forged)[1]
    with attempt.world.services.database.begin() as connection:
        (step,) = records.recorded_steps(connection, attempt.lease.task_id)
    assert step["user_turn"] == ASK["messages"][0]
    assert len(model.requests) == 1


def test_skipping_steps_and_naming_impossible_ones(attempt: Attempt, loop: Sandbox, model: ModelStandIn) -> None:
    for step in ("2", "999999999999999999999", "0", "-1", "one", "1e3", ""):
        assert loop.ask("POST", "/v1/messages", ASK, **{HEADER_STEP: step})[0] == 400, step
    assert model.requests == []
    assert attempt.world.row(attempt.lease.task_id).last_step == 0


def test_writing_after_the_lease_is_gone(attempt: Attempt, loop: Sandbox, world: World, model: ModelStandIn) -> None:
    ask(loop)
    loop.ask("POST", "/calls", CALLS)
    attempt.lose()
    before, tables = snapshot(world, attempt.lease.task_id), (Step, ToolCall, Tree, Message, ModelCall)
    counts = [count(world, table) for table in tables]
    for method, path, body in (
        ("POST", "/calls", {"step": 1, "calls": []}),
        ("POST", "/calls", CALLS),
        ("POST", "/results", result()),
        ("POST", "/finish", {"step": 1, "final_message": "done", "error": None}),
        ("POST", "/finish", {"step": 1, "final_message": "", "error": {"code": "x", "message": "x", "hint": "x"}}),
        ("GET", "/inbox", None),
        ("GET", "/job", None),
    ):
        status, said, _ = loop.ask(method, path, body)
        assert (status, said["error"]["code"]) == (410, "authority_lost"), path
    for step in (1, 2):
        assert ask(loop, step=step)[0] == 410
    assert snapshot(world, attempt.lease.task_id) == before
    assert [count(world, table) for table in tables] == counts
    assert len(model.requests) == 1
    assert attempt.finished == []


def test_finishing_over_a_message_of_the_user(attempt: Attempt, loop: Sandbox, world: World) -> None:
    with world.services.database.begin() as connection:
        mine = {"task_id": attempt.lease.task_id, "role": "user", "text": "wait"}
        connection.execute(insert(Message).values(id=new_id(), **mine))
    finish = {"step": 0, "final_message": "done", "error": None, "tree": "d" * 40, "branch": "main", "sha": "e" * 40}
    assert loop.ask("POST", "/finish", finish)[0] == 409
    assert attempt.finished == []
