"""A loop that was taken over sends more than anybody wants, or what is no request: worker and database stand it."""

from __future__ import annotations

import socket
from select import select as until_ready

import pytest
from sqlalchemy import select

from infra.tables import ToolCall, Tree
from tests.integration.relay.stage import Attempt, Sandbox
from tests.security.taken_over import CALLS, ask, count, result, snapshot, speak, speak_and_end
from tests.world import World
from workers.relay import server as link_server


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
