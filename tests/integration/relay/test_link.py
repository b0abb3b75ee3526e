"""The link as a sandbox sees it: HTTP over the Unix socket, against real Postgres and a model over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gevent
import pytest
from pydantic import SecretStr

from agent_runtime.protocol import HEADER_INBOX, HEADER_STEP, HEADER_UNREAD, VERSION, Finish, Job
from infra.tasks import records, transitions
from infra.tasks.transitions import Lease
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.relay import server as link_server
from workers.relay.calls import choose_route
from workers.relay.link import Link
from workers.relay.server import LinkServer
from workers.relay.upstream import Upstream

MODEL = "claude-sonnet-5-5"
TURN = {
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "run_command", "input": {"command": "true"}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 10, "output_tokens": 10},
}
TOOLS = [{"name": "run_command", "description": "runs", "input_schema": {"type": "object"}}]
RESULT = {
    "step": 1,
    "index": 0,
    "output": "done",
    "is_error": False,
    "truncated": False,
    "duration_ms": 3,
    "tree": "b" * 40,
    "parent": "a" * 40,
    "left_out": [],
}


class Sandbox:
    """The loop's side: one keep-alive connection over the socket."""

    def __init__(self, path: Path) -> None:
        self._connection = http.client.HTTPConnection("link")
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.settimeout(10)
        self._connection.sock.connect(str(path))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"Content-Type": "application/json"} if data is not None else {}
        self._connection.request(method, path, data, kind | names)
        response = self._connection.getresponse()
        content = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json else content.decode(), dict(response.headers)

    def close(self) -> None:
        self._connection.close()

    def messages(self, step: int, inbox: str = "") -> tuple[int, Any, dict[str, str]]:
        body = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "max_tokens": 100}
        return self.ask("POST", "/v1/messages", body, **{HEADER_STEP: str(step), HEADER_INBOX: inbox})


class Attempt:
    """A claimed task with its link, served from a thread with a gevent hub of its own."""

    def __init__(self, world: World, model: ModelStandIn, directory: Path) -> None:
        self.world = world
        self.lease: Lease = world.claim(world.task(model=MODEL), world.worker())  # type: ignore[assignment]
        self.finished: list[Finish] = []
        self.lost = threading.Event()
        self.is_suspended = False
        settings = world.services.settings.model_copy(
            update={"anthropic_base_url": model.base_url, "anthropic_api_key": SecretStr("k")}
        )
        self.link = Link(
            world.services,
            self.lease,
            on_finish=self.finished.append,
            on_lost=self.lost.set,
            suspended=lambda: self.is_suspended,
        )
        self.upstream = Upstream(settings)
        self.route = choose_route(MODEL, settings, self.upstream)
        self.path = directory / "host.sock"
        started = threading.Event()
        self._stop, self._assigned, self._served = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(directory, started))
        self._thread.start()
        assert started.wait(10)

    def _serve(self, directory: Path, started: threading.Event) -> None:
        server = LinkServer(directory)
        server.start()
        started.set()
        while not self._stop.is_set():
            gevent.sleep(0.01)
            if self._assigned.is_set():
                self._assigned.clear()
                server.serve(self.link)
                self._served.set()
        server.stop()
        gevent.get_hub().destroy()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.upstream.close()

    def assign(self) -> None:
        job: Any = {"protocol": VERSION, "steps": [], "agent": {"name": "coder", "max_tokens": 1000}}
        self.link.assign(cast("Job", job), self.route)
        self._assigned.set()
        assert self._served.wait(10)

    def lose(self) -> None:
        self.world.let_die(self.world.row(self.lease.task_id).worker_id)
        self.world.sweep()


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
