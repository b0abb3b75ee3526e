"""One model call, end to end: real SDK, a model over HTTP that misbehaves in every way, real Postgres."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from infra.errors import AuthorityLostError, BudgetExceededError, TaskFailedError
from infra.services import Services
from infra.settings import Settings
from infra.tables import ModelCall
from infra.tasks import records
from infra.tasks.transitions import Lease
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.relay import calls
from workers.relay.assemble import StreamEvent
from workers.relay.calls import Ask, ModelCaller
from workers.relay.routes import choose_route
from workers.relay.upstream import Upstream

ANSWER = {
    "content": [
        {"type": "thinking", "thinking": "let me look"},
        {"type": "text", "text": "I will run the tests. " * 5},
        {"type": "tool_use", "name": "run_command", "input": {"command": "true"}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 1000, "output_tokens": 200},
}
MODEL = "claude-sonnet-5-5"
COST = Decimal("0.004")  # 1000 tokens at 2 USD and 200 at 10 USD a million
TOOLS = [{"name": "run_command", "description": "runs", "input_schema": {"type": "object"}}]


@pytest.fixture(autouse=True)
def _no_long_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_BACKOFF_S", (0.01, 0.05))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"model_deadline": 20.0, "model_idle_timeout": 1.0})


class Bench:
    """A claimed task whose model calls go to a stand-in."""

    def __init__(self, world: World, model: ModelStandIn, budget: str = "5") -> None:
        self.world = world
        self.model = model
        settings = world.services.settings.model_copy(
            update={"anthropic_base_url": model.base_url, "anthropic_api_key": SecretStr("k")}
        )
        lease = world.claim(world.task(model=MODEL, budget=budget), world.worker())
        assert lease is not None
        self.lease: Lease = lease
        self.services: Services = world.services
        self.upstream = Upstream(settings)
        route = choose_route(MODEL, settings, self.upstream)
        self.caller = ModelCaller(self.services, self.lease, route, agent="coder")
        self.forwarded: list[StreamEvent] = []
        self.on_event: Callable[[StreamEvent], None] = lambda _: None

    def forward(self, event: StreamEvent) -> None:
        self.on_event(event)
        self.forwarded.append(event)

    def ask(self, **changes: Any) -> None:
        turn = {"role": "user", "content": "do it"}
        request = {"messages": [turn], "system": "s", "tools": TOOLS, "max_tokens": 1000, **changes}
        self.caller.run(Ask(1, request, turn, (), 2000), self.forward)

    def record(self) -> Any:
        with self.services.database.begin() as connection:
            return next(iter(records.recorded_steps(connection, self.lease.task_id)), None)

    def money(self) -> tuple[Decimal, Decimal]:
        row = self.world.row(self.lease.task_id)
        return row.spent_usd, row.reserved_usd

    def call_states(self) -> list[str]:
        with self.services.database.begin() as connection:
            return list(connection.execute(select(ModelCall.state).order_by(ModelCall.try_)).scalars())


@pytest.fixture
def make_bench(world: World) -> Iterator[Any]:
    servers: list[ModelStandIn] = []
    benches: list[Bench] = []

    def make(*turns: dict[str, Any], budget: str = "5") -> Bench:
        server = ModelStandIn({"all": list(turns)}, default="all")
        server.start()
        servers.append(server)
        benches.append(Bench(world, server, budget))
        return benches[-1]

    yield make
    for bench in benches:
        bench.upstream.close()
    for server in servers:
        server.stop()


def test_a_call_is_recorded_with_its_events_and_cost_before_the_loop_sees_its_end(make_bench: Any) -> None:
    bench = make_bench(ANSWER)
    seen: list[bool] = []
    bench.on_event = lambda _: seen.append(bench.record() is not None)
    bench.ask()
    assert bench.forwarded[-1]["type"] == "message_stop"
    assert seen[-1] is True
    assert not any(seen[:-1])
    record = bench.record()
    assert [block["type"] for block in record["response"]["content"]] == ["thinking", "text", "tool_use"]
    assert record["response"]["content"][2]["input"] == {"command": "true"}
    assert record["response"]["stop_reason"] == "tool_use"
    assert bench.world.events(bench.lease.task_id)[2:] == ["thinking", "message", "usage"]
    assert bench.money() == (COST, 0)


def test_the_instructions_and_the_newest_turn_are_marked_as_cacheable(make_bench: Any) -> None:
    bench = make_bench(ANSWER)
    bench.ask(system=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])
    (request,) = bench.model.requests
    assert ["cache_control" in block for block in request.body["system"]] == [False, True]
    assert request.body["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}
    assert request.body["thinking"]["type"] == "adaptive"
    assert bench.record()["user_turn"] == {"role": "user", "content": "do it"}  # as sent, without our marks


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "status", "status": 529},
        {"fault": "status", "status": 429, "retry_after": 0},
        {"fault": "status", "status": 500},
        {"fault": "cut", "after_events": 4},
        {"fault": "cut", "after_events": 4, "clean": True},
        {"fault": "error_event"},
        {"fault": "garbage"},
        {"fault": "endless"},
        {"fault": "hang"},
        {"fault": "hang_mid"},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
def test_a_failed_try_is_made_again_and_accounted_for(make_bench: Any, fault: dict[str, Any]) -> None:
    bench = make_bench(fault, ANSWER)
    bench.ask()
    refused_by_status = fault["fault"] == "status"
    assert bench.call_states() == ["released" if refused_by_status else "lost", "settled"]
    spent, reserved = bench.money()
    assert reserved == 0
    assert (spent == COST) if refused_by_status else (spent > COST)
    assert bench.record()["response"]["stop_reason"] == "tool_use"
    events = bench.world.events(bench.lease.task_id)
    assert events.count("message") == 1
    assert "error" in events  # the user sees why there was no answer yet


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (401, "bad key", "model_key_invalid"),
        (404, "no such model", "unknown_model"),
        (400, "prompt is too long: 300000 tokens > 200000", "context_exceeded"),
        (413, "too large", "context_exceeded"),
        (400, "tools: wrong", "model_refused_request"),
    ],
)
def test_a_refusal_for_good_is_not_tried_again(make_bench: Any, status: int, message: str, code: str) -> None:
    bench = make_bench({"fault": "status", "status": status, "message": message, "times": "forever"}, ANSWER)
    with pytest.raises(TaskFailedError) as failed:
        bench.ask()
    assert failed.value.code == code
    assert failed.value.hint
    assert bench.call_states() == ["released"]
    assert bench.money() == (0, 0)
    assert bench.record() is None


def test_a_model_that_is_overloaded_for_ever_ends_within_the_deadline(
    make_bench: Any, monkeypatch: pytest.MonkeyPatch, settings: Settings, world: World
) -> None:
    object.__setattr__(world.services, "settings", settings.model_copy(update={"model_deadline": 0.5}))
    bench = make_bench({"fault": "status", "status": 529, "times": "forever"}, ANSWER)
    with pytest.raises(TaskFailedError) as failed:
        bench.ask()
    assert failed.value.code == "model_unavailable"
    assert set(bench.call_states()) == {"released"}
    assert bench.money() == (0, 0)


@pytest.mark.parametrize("fault", ["comments", "slow"])
def test_a_model_that_is_never_silent_and_never_done_ends_within_the_deadline(
    make_bench: Any, settings: Settings, world: World, fault: str
) -> None:
    object.__setattr__(world.services, "settings", settings.model_copy(update={"model_deadline": 2.0}))
    bench = make_bench({"fault": fault, "times": "forever"}, {**ANSWER, "chunk_chars": 1})
    with pytest.raises(TaskFailedError, match="did not finish within the deadline") as failed:
        bench.ask()
    assert failed.value.code == "model_unavailable"
    assert bench.call_states() == ["lost"]
    assert bench.record() is None
    bench.model.wait_until(lambda requests: all(request.finished_at for request in requests), timeout=10)


def test_a_call_that_could_pass_the_budget_is_not_made(make_bench: Any) -> None:
    bench = make_bench(ANSWER, budget="0.01")
    with pytest.raises(BudgetExceededError):
        bench.ask()
    assert bench.call_states() == []


def test_near_the_end_of_the_budget_the_answer_shrinks(make_bench: Any) -> None:
    bench = make_bench(ANSWER, budget="0.05")
    bench.ask(max_tokens=16_000)
    # 0.05 USD less 2000 prompt tokens at 2.50 USD a million leave 4500 tokens at 10 USD a million.
    assert bench.money() == (COST, 0)
    (held,) = _holds(bench)
    assert held <= Decimal("0.05")


def test_a_lost_lease_records_nothing(make_bench: Any) -> None:
    bench = make_bench({**ANSWER, "gate": "g"})
    row = bench.world.row(bench.lease.task_id)
    bench.world.let_die(row.worker_id)
    bench.world.sweep()
    with pytest.raises(AuthorityLostError):
        bench.ask()
    assert bench.record() is None


def test_a_replay_is_free_and_ends_with_its_recording(world: World, settings: Settings, tmp_path: Path) -> None:
    text = "one two three four five six seven eight"
    response = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    (tmp_path / "r.json").write_text(json.dumps({"version": 1, "steps": [{"response": response}]}))
    settings = settings.model_copy(update={"recordings": tmp_path})
    lease = world.claimed()
    caller = ModelCaller(world.services, lease, choose_route("replay:r", settings, Upstream(settings)), agent="coder")
    events: list[StreamEvent] = []
    turn = {"role": "user", "content": "x"}
    request = {"messages": [turn], "max_tokens": 10}
    caller.run(Ask(1, request, turn, (), 10), events.append)
    assert "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta") == text
    assert world.row(lease.task_id).spent_usd == 0
    with pytest.raises(TaskFailedError) as failed:
        caller.run(Ask(2, request, turn, (), 10), events.append)
    assert failed.value.code == "recording_exhausted"


def _holds(bench: Bench) -> list[Decimal]:
    with bench.services.database.begin() as connection:
        return list(connection.execute(select(ModelCall.reserved_usd)).scalars())
