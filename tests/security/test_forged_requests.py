"""What a loop that was taken over asks of the model: no other model, no way out, no money beyond the task's budget."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from infra.tables import Task
from tests.integration.relay.stage import TOOLS, TURN, Attempt, Sandbox
from tests.security.taken_over import ASK, ask
from tests.standin.model import ModelStandIn
from tests.world import World


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
