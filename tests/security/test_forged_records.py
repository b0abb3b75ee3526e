"""Attacks of a loop that was taken over: it has the link, and says there whatever it wants to.

Commands cannot open the link; should one find a way, these say what it would win: nothing beyond its own task, no
money beyond its budget, no history that did not happen.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from select import select as until_ready
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select

from agent_runtime.protocol import HEADER_INBOX, HEADER_STEP
from infra.ids import new_id
from infra.tables import Message, ModelCall, Step, Task, ToolCall, Tree
from infra.tasks import records
from tests.integration.relay.stage import RESULT, TOOLS, TURN, Attempt, Sandbox
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.relay import server as link_server

CALLS: dict[str, Any] = {
    "step": 1,
    "calls": [{"index": 0, "tool_use_id": "toolu_1", "tool": "run_command", "args": {}}],
}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "max_tokens": 100}


@pytest.fixture
def model() -> Iterator[ModelStandIn]:
    with ModelStandIn({"all": [TURN, TURN, TURN]}, default="all") as server:
        yield server


@pytest.fixture
def attempt(world: World, model: ModelStandIn, run_dir: Path) -> Iterator[Attempt]:
    made = Attempt(world, model, run_dir)
    made.assign()
    yield made
    made.close()


@pytest.fixture
def loop(attempt: Attempt) -> Iterator[Sandbox]:
    """The loop that was taken over."""
    sandbox = Sandbox(attempt.path)
    yield sandbox
    sandbox.close()


def ask(loop: Sandbox, step: int = 1, inbox: str = "", **changes: Any) -> tuple[int, Any, dict[str, str]]:
    return loop.ask("POST", "/v1/messages", ASK | changes, **{HEADER_STEP: str(step), HEADER_INBOX: inbox})


def result(**changes: Any) -> bytes:
    return json.dumps(RESULT | changes).encode() + b"\n"


def count(world: World, table: Any) -> int:
    with world.services.database.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def snapshot(world: World, task_id: UUID) -> tuple[Any, ...]:
    row = world.row(task_id)
    return row.last_seq, row.last_step, row.unread, row.status, row.spent_usd, row.reserved_usd


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


def test_choosing_another_model_and_a_longer_answer(attempt: Attempt, loop: Sandbox, model: ModelStandIn) -> None:
    own = attempt.world.row(attempt.lease.task_id).model
    given: dict[str, Any] = {
        "model": "claude-most-expensive",
        "max_tokens": 10**9,
        "thinking": {"type": "enabled", "budget_tokens": 10**6},
    }
    assert ask(loop, **given, service_tier="priority", metadata={"user_id": "x"}, betas=["x"], speed="fast")[0] == 200
    (request,) = model.requests
    assert (request.body["model"], request.body["max_tokens"]) == (own, 1000)
    assert request.body.get("thinking") != given["thinking"]
    assert not {"service_tier", "metadata", "betas", "speed"} & request.body.keys()


SERVER_TOOLS = [
    {"type": "web_search_20250305", "name": "web_search"},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "code_execution_20250522", "name": "code_execution"},
    {"type": "mcp_toolset", "mcp_server_name": "x"},
    {"type": "bash_20250124", "name": "bash"},
]


def test_having_the_model_s_service_do_what_the_sandbox_may_not(loop: Sandbox, model: ModelStandIn) -> None:
    """A search or a fetch by the service is a way out of the sandbox, and is billed beyond tokens."""
    servers = [{"type": "url", "name": "x", "url": "https://example.org"}]
    for tool in SERVER_TOOLS:
        status, body, _ = ask(loop, tools=[*TOOLS, tool], mcp_servers=servers, container="x")
        assert (status, body["error"]["code"]) == (400, "invalid_input")
        assert str(tool["type"]) in body["error"]["message"]
    assert model.requests == []
    assert ask(loop, mcp_servers=servers, container="x")[0] == 200
    assert not {"mcp_servers", "container"} & model.requests[0].body.keys()


FETCHED_BLOCKS = [
    {"type": "image", "source": {"type": "url", "url": "https://example.org/?secret"}},
    {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
    {"type": "document", "source": {"type": "url", "url": "https://example.org/?secret"}},
    {"type": "container_upload", "file_id": "file_1"},
    {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "image", "source": {"type": "url", "url": "x"}}],
    },
    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": {"type": "file"}}]},
    {"type": "server_tool_use", "id": "t", "name": "web_search", "input": {}},
]


def test_having_the_model_s_service_fetch_an_address_or_a_file(loop: Sandbox, model: ModelStandIn) -> None:
    for block in FETCHED_BLOCKS:
        for role in ("user", "assistant"):
            turns = [{"role": role, "content": [block]}, {"role": "user", "content": "x"}]
            assert ask(loop, messages=turns)[0] == 400
        assert ask(loop, system=[block])[0] == 400
        assert model.requests == []


def test_having_the_prompt_cached_for_longer_at_a_higher_price(loop: Sandbox, model: ModelStandIn) -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    turn = {"role": "user", "content": [{"type": "text", "text": "x", **mark}, {"type": "text", "text": "y"}]}
    assert (
        ask(loop, messages=[turn], tools=[{**TOOLS[0], **mark}], system=[{"type": "text", "text": "s", **mark}])[0]
        == 200
    )
    assert "1h" not in json.dumps(model.requests[0].body)


def test_passing_the_budget_by_a_history_that_did_not_happen(world: World, model: ModelStandIn, run_dir: Path) -> None:
    """What was counted with the last step is not held once more: so it must be what was counted."""
    attempt = Attempt(world, model, run_dir)
    loop = Sandbox(attempt.path)
    try:
        attempt.assign()
        ask(loop)
        with world.services.database.begin() as connection:
            connection.execute(Task.__table__.update().values(budget_usd=Decimal("0.02")))  # type: ignore[attr-defined]
        answer = {"role": "assistant", "content": TURN["content"]}
        tail = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "y"}]}
        long = "word " * 200_000  # some 200,000 tokens: 0.50 USD at least
        swollen: dict[str, Any] = {
            "history": {"messages": [{"role": "user", "content": long}, answer, tail]},
            "answer": {"messages": [ASK["messages"][0], {"role": "assistant", "content": long}, tail]},
            "more turns": {"messages": [ASK["messages"][0], answer, {"role": "user", "content": long}, answer, tail]},
            "instructions": {"messages": [ASK["messages"][0], answer, tail], "system": long},
            "tools": {
                "messages": [ASK["messages"][0], answer, tail],
                "tools": [*TOOLS, {"name": "x", "description": long, "input_schema": {"type": "object"}}],
            },
        }
        for what, changes in swollen.items():
            assert ask(loop, step=2, **changes)[0] == 402, what
            attempt.link._refused.clear()  # each of them is judged by itself
        assert len(model.requests) == 1
        assert ask(loop, step=2, messages=[ASK["messages"][0], answer, tail])[0] == 200
    finally:
        loop.close()
        attempt.close()


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


def test_results_so_large_that_they_fill_the_database(attempt: Attempt, loop: Sandbox) -> None:
    ask(loop)
    loop.ask("POST", "/calls", CALLS)
    swollen = result(output="x" * 5_000_000, left_out=["y" * 10_000] * 1000)
    assert loop.ask("POST", "/results", swollen)[0] == 200
    with attempt.world.services.database.begin() as connection:
        (call,) = connection.execute(select(ToolCall.output, ToolCall.truncated)).all()
    assert len(call.output) <= 256 * 1024
    assert call.truncated is True


def test_packs_that_are_too_large_one_by_one_or_together(attempt: Attempt, loop: Sandbox, world: World) -> None:
    world.services.settings.__dict__["task_work_bytes"] = 2 << 20
    for step in (1, 2, 3):
        ask(loop, step=step)
        loop.ask("POST", "/calls", CALLS | {"step": step})
    assert loop.ask("POST", "/results", result() + bytes((64 << 20) + 1))[0] == 400
    assert loop.ask("POST", "/results", result() + bytes(1 << 20))[0] == 200
    assert loop.ask("POST", "/results", result(step=2) + bytes(1 << 19))[0] == 200
    status, said, _ = loop.ask("POST", "/results", result(step=3) + bytes(1 << 20))
    assert (status, said["error"]["code"]) == (422, "work_too_large")
    assert "FARHAND_TASK_WORK_BYTES" in said["error"]["hint"]
    assert count(world, Tree) == 2


def test_a_body_larger_than_is_taken_announced_or_not(
    attempt: Attempt, loop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "MAX_BODY_BYTES", 1 << 20)
    assert loop.ask("POST", "/results", bytes((1 << 20) + 1))[0] == 400
    head = b"POST /results HTTP/1.1\r\nHost: link\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = speak(attempt.path, head, *(b"10000\r\n" + bytes(1 << 16) + b"\r\n" for _ in range(20)), b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert speak(attempt.path, b"GET /inbox HTTP/1.1\r\nHost: link\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def speak(path: Path, *pieces: bytes) -> bytes:
    """Bytes as they are, and what comes back first."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        try:
            for piece in pieces:
                raw.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        return raw.recv(65536)


def test_large_bodies_that_never_end(attempt: Attempt, loop: Sandbox) -> None:
    """One is taken at a time, so that many do not fill the worker's memory; small requests are answered meanwhile."""
    slow = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    sent = dict.fromkeys(slow, 0)
    for raw in slow:
        raw.connect(str(attempt.path))
        raw.sendall(b"POST /results HTTP/1.1\r\nHost: link\r\nContent-Length: 50000000\r\n\r\n")
        raw.setblocking(False)
    while max(sent.values()) < 8 << 20:
        _, ready, _ = until_ready([], slow, [], 20)
        assert ready, sent
        for raw in ready:
            sent[raw] += raw.send(bytes(1 << 16))
    assert sorted(sent.values())[-2] < 2 << 20, "what the kernel holds of those that wait"
    assert loop.ask("GET", "/inbox")[0] == 200
    for raw in slow:
        raw.close()
    assert loop.ask("POST", "/results", result() + bytes(2 << 20))[0] == 400, "taken, and refused for what it says"


def test_more_connections_than_a_loop_has_use_for(attempt: Attempt) -> None:
    """They wait for one that ends, so that their number does not fill the worker."""
    question = b"GET /inbox HTTP/1.1\r\nHost: link\r\n\r\n"
    idle = [socket.socket(socket.AF_UNIX) for _ in range(link_server.MAX_CONNECTIONS)]
    for raw in idle:
        raw.connect(str(attempt.path))
        raw.sendall(question)
        assert b"200 OK" in raw.recv(65536)
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(attempt.path))
        late.sendall(question)
        assert until_ready([late], [], [], 1.0)[0] == [], "it is not answered yet"
        for raw in idle:
            raw.close()
        late.settimeout(20)
        assert b"200 OK" in late.recv(65536)


NO_REQUESTS = [
    b"GET /inbox HTTP/1.1\r\nHost: link\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST /calls HTTP/1.1\r\nHost: link\r\nContent-Length: -1\r\n\r\n",
    b"POST /calls HTTP/1.1\r\nHost: link\r\nContent-Length: 1e9\r\n\r\n",
    b"POST /calls HTTP/1.1\r\nHost: link\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /calls HTTP/1.1\r\nHost: link\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: link\r\n\r\n",
    b"GET /inbox HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /inbox HTTP/1.1\r\nHost: link\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nFarhand-Step: 1\r\nFarhand-Inbox: x,y\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /finish HTTP/1.1\r\nHost: link\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
]


def test_a_request_that_is_none(attempt: Attempt, loop: Sandbox) -> None:
    """Refused, or broken off, and nothing else: the link lives, and nothing was written."""
    for request_ in NO_REQUESTS:
        before = snapshot(attempt.world, attempt.lease.task_id)
        answer = speak_and_end(attempt.path, request_)
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
        assert loop.ask("GET", "/inbox")[0] == 200
        assert snapshot(attempt.world, attempt.lease.task_id) == before


def speak_and_end(path: Path, request_: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        try:
            raw.sendall(request_)
            raw.shutdown(socket.SHUT_WR)
            return raw.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_a_second_request_hidden_in_the_body_of_the_first(attempt: Attempt, loop: Sandbox, world: World) -> None:
    """Both lengths are given. Whichever counts: each request that is heard is this task's own."""
    other = world.claimed()
    before = snapshot(world, other.task_id)
    inner = b"POST /finish HTTP/1.1\r\nHost: link\r\nContent-Length: 2\r\n\r\n{}"
    length = str(len(inner) + 5).encode()
    head = b"POST /calls HTTP/1.1\r\nHost: link\r\nTransfer-Encoding: chunked\r\nContent-Length: " + length
    speak_and_end(attempt.path, head + b"\r\n\r\n0\r\n\r\n" + inner)
    assert attempt.finished == []
    assert snapshot(world, other.task_id) == before
    assert loop.ask("GET", "/inbox")[0] == 200
