"""The link as a sandbox sees it: HTTP over the Unix socket, against real Postgres and a model over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agent_runtime.protocol import HEADER_STEP, HEADER_UNREAD
from infra.tasks import records, transitions
from tests.integration.relay.stage import MODEL, RESULT, TOOLS, TURN, Attempt, Sandbox
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.relay import server as link_server
from workers.relay.routes import choose_route
from workers.relay.upstream import Upstream


@pytest.fixture
def model() -> Iterator[ModelStandIn]:
    with ModelStandIn({"all": [TURN]}, default="all") as server:
        yield server


@pytest.fixture
def attempt(world: World, model: ModelStandIn, run_dir: Path) -> Iterator[Attempt]:
    made = Attempt(world, model, run_dir)
    yield made
    made.close()


@pytest.fixture
def unassigned(attempt: Attempt) -> Iterator[Sandbox]:
    sandbox = Sandbox(attempt.path)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(attempt: Attempt, unassigned: Sandbox) -> Sandbox:
    attempt.assign()
    return unassigned


def test_the_job_is_waited_for(attempt: Attempt, unassigned: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_server, "JOB_WAIT_S", 0.01)
    sandbox = unassigned
    assert sandbox.ask("GET", "/job")[0] == 202
    attempt.assign()
    status, job, _ = sandbox.ask("GET", "/job")
    assert (status, job["agent"]["name"]) == (200, "coder")
    assert (job["cancel"], job["unread"]) == (False, 1)


def test_a_recorded_step_is_never_asked_again(attempt: Attempt, sandbox: Sandbox, model: ModelStandIn) -> None:
    first = sandbox.messages(1)
    again = sandbox.messages(1)
    assert first[0] == again[0] == 200
    assert "message_stop" in again[1]
    assert "toolu_1" in again[1]
    assert len(model.requests) == 1
    assert attempt.world.events(attempt.lease.task_id).count("usage") == 1


def test_a_step_goes_on_without_its_listener_and_is_recorded(attempt: Attempt, world: World) -> None:
    with ModelStandIn({"all": [{**TURN, "gate": "g"}]}, default="all") as model:
        settings = world.services.settings.model_copy(
            update={"anthropic_base_url": model.base_url, "anthropic_api_key": SecretStr("k")}
        )
        upstream = Upstream(settings)
        attempt.route = choose_route(MODEL, settings, upstream)
        attempt.assign()
        events = attempt.link.messages(1, _body(), ())
        model.wait_for_held("g")
        del events  # the sandbox let go of the stream
        model.open_gate("g")
        list(attempt.link.messages(1, _body(), ()))  # a repeat waits for the call in the air
        assert len(model.requests) == 1
        upstream.close()


def _body() -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "max_tokens": 9}).encode()


def test_the_inbox_is_consumed_by_the_step_that_contains_it(attempt: Attempt, sandbox: Sandbox) -> None:
    (message,) = sandbox.ask("GET", "/inbox")[1]["messages"]
    assert message["text"] == "make the failing test pass"
    assert sandbox.messages(1, inbox=message["id"])[2][HEADER_UNREAD] == "1"  # as the stream began
    assert sandbox.ask("GET", "/inbox")[1] == {"messages": [], "cancel": False, "unread": 0}


def test_calls_and_results_are_recorded_once(attempt: Attempt, sandbox: Sandbox) -> None:
    sandbox.messages(1)
    calls = {"step": 1, "calls": [{"index": 0, "tool_use_id": "toolu_1", "tool": "run_command", "args": {}}]}
    body = json.dumps(RESULT).encode() + b"\nPACK-bytes\nwith lines"
    for _ in range(2):
        assert sandbox.ask("POST", "/calls", calls)[0] == 200
        assert sandbox.ask("POST", "/results", body)[0] == 200
    assert attempt.world.events(attempt.lease.task_id)[-2:] == ["tool_call", "tool_result"]
    with attempt.world.services.database.begin() as connection:
        (tree,) = records.trees(connection, attempt.lease.task_id)
        (call,) = records.recorded_calls(connection, attempt.lease.task_id, 1)
    assert bytes(tree.pack) == b"PACK-bytes\nwith lines"
    assert call["output"] == "done"


def test_a_result_without_its_call_is_refused(sandbox: Sandbox) -> None:
    sandbox.messages(1)
    status, body, _ = sandbox.ask("POST", "/results", json.dumps(RESULT).encode() + b"\n")
    assert (status, body["error"]["code"]) == (400, "invalid_input")


def test_finishing_waits_for_unread_messages(attempt: Attempt, sandbox: Sandbox) -> None:
    finish = {"step": 0, "final_message": "done", "error": None}
    status, body, _ = sandbox.ask("POST", "/finish", finish)
    assert (status, body["unread"]) == (409, 1)
    assert attempt.finished == []
    (message,) = sandbox.ask("GET", "/inbox")[1]["messages"]
    sandbox.messages(1, inbox=message["id"])
    assert sandbox.ask("POST", "/finish", finish)[0] == 200
    assert attempt.finished == [finish]


def test_a_lost_lease_is_told_at_once(attempt: Attempt, sandbox: Sandbox) -> None:
    attempt.lose()
    before = attempt.world.events(attempt.lease.task_id)
    status, body, _ = sandbox.ask("POST", "/calls", {"step": 1, "calls": []})
    assert (status, body["error"]["code"]) == (410, "authority_lost")
    assert attempt.lost.wait(5)
    assert sandbox.messages(1)[0] == 410
    assert attempt.world.events(attempt.lease.task_id) == before


def test_a_suspended_worker_lets_nothing_out(attempt: Attempt, sandbox: Sandbox, model: ModelStandIn) -> None:
    attempt.is_suspended = True
    assert sandbox.messages(1)[0] == 503
    assert model.requests == []


def test_a_cancel_is_told_with_every_reply(attempt: Attempt, sandbox: Sandbox) -> None:
    with attempt.world.services.tasks.transaction() as tx:
        transitions.request_cancel(tx, attempt.lease.task_id, user_id=attempt.world.user_id)
    attempt.link.cancelled.set()
    assert sandbox.ask("GET", "/inbox")[1]["cancel"] is True


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/nothing", None),
        ("POST", "/calls", b"{"),
        ("POST", "/calls", {"step": "one"}),
        ("POST", "/results", b"no json\n"),
        ("POST", "/results", {"step": 1}),
        ("POST", "/finish", {}),
        ("POST", "/finish", []),
        ("POST", "/v1/messages", {"messages": []}),
    ],
)
def test_nonsense_is_refused_and_the_link_lives(sandbox: Sandbox, method: str, path: str, body: Any) -> None:
    status, reply, _ = sandbox.ask(method, path, body, **{HEADER_STEP: "1"})
    assert status == 400
    assert reply["error"]["message"]
    assert sandbox.ask("GET", "/inbox")[0] == 200


def test_a_step_cannot_be_skipped(sandbox: Sandbox, model: ModelStandIn) -> None:
    assert sandbox.messages(5)[0] == 400
    assert model.requests == []
