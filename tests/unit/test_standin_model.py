"""The model stand-in against the real SDK: what Farhand's relay will meet, it must meet here in the same form."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import anthropic
import httpx
import pytest
from anthropic.types.message_create_params import MessageCreateParamsBase

from tests.acceptance.material.package import trajectory
from tests.standin.model import ModelStandIn
from tests.standin.trajectory import sign
from tests.standin.validation import KNOWN_FIELDS

MODEL = "claude-test-1"
TOOL = {"name": "run_command", "description": "Run.", "input_schema": {"type": "object", "properties": {}}}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
DONE = {"content": [{"type": "text", "text": "All done: ünïcödé 🚀."}]}
CALL = {"content": [{"type": "tool_use", "id": "toolu_a", "name": "run_command", "input": {"command": "true"}}]}
RICH = {
    "content": [
        {"type": "thinking", "thinking": "First look, then act, and only then speak about it."},
        {"type": "text", "text": "I'll run two commands — ünïcödé included 🚀."},
        {"type": "tool_use", "name": "run_command", "input": {"command": "echo 'ä' && ls", "timeout_s": 5}},
        {"type": "tool_use", "name": "run_command", "input": {}},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 9, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 2},
    "chunk_chars": 5,
}


_clients: list[anthropic.Anthropic] = []


@pytest.fixture(autouse=True)
def clients_are_closed() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


def client_of(model: ModelStandIn, **options: Any) -> anthropic.Anthropic:
    return client_at(model.base_url, **options)


def client_at(base_url: str, **options: Any) -> anthropic.Anthropic:
    settings: dict[str, Any] = {"api_key": "key", "max_retries": 0, "timeout": 10.0} | options
    _clients.append(anthropic.Anthropic(base_url=base_url, **settings))
    return _clients[-1]


def stream(client: anthropic.Anthropic, messages: list[Any] | None = None, **options: Any) -> anthropic.types.Message:
    arguments: dict[str, Any] = {"model": MODEL, "max_tokens": 1000, "messages": messages or HELLO} | options
    with client.messages.stream(**arguments) as events:
        return events.get_final_message()


@pytest.fixture
def plays() -> Iterator[Any]:
    """Starts stand-ins with the given trajectory, and stops them."""
    running: list[ModelStandIn] = []

    def start(*entries: Any, **options: Any) -> ModelStandIn:
        running.append(ModelStandIn({"default": entries}, **options))
        running[-1].start()
        return running[-1]

    yield start
    for model in running:
        model.stop()


def test_a_streamed_turn_arrives_as_written(plays: Any) -> None:
    model = plays(RICH)
    message = stream(client_of(model), tools=[TOOL])
    thinking, text, first, second = message.content
    assert isinstance(thinking, anthropic.types.ThinkingBlock)
    assert (thinking.thinking, thinking.signature) == (RICH["content"][0]["thinking"], sign(thinking.thinking))  # type: ignore[index]
    assert isinstance(text, anthropic.types.TextBlock)
    assert text.text == RICH["content"][1]["text"]  # type: ignore[index]
    assert isinstance(first, anthropic.types.ToolUseBlock)
    assert isinstance(second, anthropic.types.ToolUseBlock)
    assert (first.input, second.input) == ({"command": "echo 'ä' && ls", "timeout_s": 5}, {})
    assert first.id != second.id
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (7, 9)
    assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (3, 2)
    (request,) = model.wait_until(lambda requests: requests[0].finished_at is not None)
    assert (request.status, request.delivered, request.turn) == (200, True, 0)
    assert request.body["max_tokens"] == 1000
    assert "key" in {request.headers.get("x-api-key"), request.headers.get("authorization", "").removeprefix("Bearer ")}


def test_the_events_come_in_the_order_of_the_api(plays: Any) -> None:
    model = plays(RICH)
    reply = httpx.post(
        f"{model.base_url}/v1/messages",
        json={"model": MODEL, "max_tokens": 9, "messages": HELLO, "stream": True},
        headers={"x-api-key": "k", "anthropic-version": "2023-06-01"},
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["request-id"].startswith("req_")
    names = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("content_block_start") == names.count("content_block_stop") == 4
    data = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in data] == names
    kinds = {event["delta"]["type"] for event in data if event["type"] == "content_block_delta"}
    assert kinds == {"thinking_delta", "signature_delta", "text_delta", "input_json_delta"}


def test_without_stream_the_message_comes_whole(plays: Any) -> None:
    message = client_of(plays(RICH)).messages.create(model=MODEL, max_tokens=10, messages=HELLO)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.stop_reason == "tool_use"


def converse(client: anthropic.Anthropic, prompt: str) -> list[anthropic.types.Message]:
    """The loop of an agent whose every tool answers "ok"."""
    messages: list[Any] = [{"role": "user", "content": prompt}]
    answers = []
    while True:
        answer = stream(client, messages, tools=[TOOL])
        answers.append(answer)
        if answer.stop_reason != "tool_use":
            return answers
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "ok"}
            for block in answer.content
            if block.type == "tool_use"
        ]
        content = [block.model_dump(exclude_none=True) for block in answer.content]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]


def test_concurrent_conversations_each_get_their_own_trajectory_whole() -> None:
    with ModelStandIn({"parse": trajectory(), "other": [CALL, DONE]}) as model, ThreadPoolExecutor(8) as pool:
        prompts = [f"task {n} [trajectory:{'parse' if n % 2 else 'other'}]" for n in range(8)]
        played = list(pool.map(lambda prompt: converse(client_of(model), prompt), prompts))
    assert [len(answers) for answers in played] == [2, 6] * 4
    assert len(model.requests) == 32


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.APIStatusError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_an_api_error_has_the_form_that_the_sdk_knows(
    plays: Any, status: int, error: type[anthropic.APIStatusError], kind: str
) -> None:
    model = plays({"fault": "status", "status": status, "retry_after": 7, "message": "no more"}, DONE)
    with pytest.raises(error) as caught:
        stream(client_of(model))
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["error"]) == ("error", {"type": kind, "message": "no more"})
    assert body["request_id"] == caught.value.request_id


def test_a_fault_hits_its_number_of_requests_and_then_the_turn_follows(plays: Any) -> None:
    model = plays({"fault": "status", "status": 529, "times": 2, "retry_after": 0.01}, DONE)
    assert stream(client_of(model, max_retries=2)).stop_reason == "end_turn"
    assert [request.status for request in model.requests] == [529, 529, 200]
    assert [request.delivered for request in model.wait_until(lambda all_: all_[-1].delivered)] == [False, False, True]


def test_a_fault_forever_never_yields(plays: Any) -> None:
    model = plays({"fault": "status", "status": 529, "times": "forever"}, DONE)
    for _ in range(5):
        with pytest.raises(anthropic.InternalServerError):
            stream(client_of(model))


def test_a_cut_breaks_the_connection_in_the_middle(plays: Any) -> None:
    model = plays({"fault": "cut", "after_events": 4}, RICH)
    # Not one of the SDK's exceptions: once a stream runs, it hands on those of its transport.
    with pytest.raises(Exception, match=r"peer closed connection"):
        stream(client_of(model))
    (request,) = model.wait_until(lambda requests: requests[0].finished_at is not None)
    assert (request.status, request.delivered) == (200, False)
    assert stream(client_of(model)).stop_reason == "tool_use"


def test_a_clean_cut_looks_like_a_short_answer(plays: Any) -> None:
    """The trap that a relay must not fall into: the SDK reports no error."""
    message = stream(client_of(plays({"fault": "cut", "after_events": 6, "clean": True}, RICH)))
    assert message.stop_reason is None


def test_an_error_event_ends_the_stream_as_overloaded(plays: Any) -> None:
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        stream(client_of(plays({"fault": "error_event"}, RICH)))


@pytest.mark.parametrize("fault", [{"fault": "hang"}, {"fault": "hang_mid", "after_events": 2}])
def test_a_hang_lasts_until_the_client_leaves(plays: Any, fault: dict[str, Any]) -> None:
    model = plays({**fault, "times": "forever"}, DONE)
    with pytest.raises(Exception, match=r"timed out"):
        stream(client_of(model, timeout=0.3))
    (request,) = model.wait_until(lambda requests: requests[0].finished_at is not None)
    assert not request.delivered
    assert request.status == (None if fault["fault"] == "hang" else 200)


def test_stopping_ends_a_hang() -> None:
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            stream(client)
        except anthropic.APIConnectionError as error:
            outcome.append(error)

    with ModelStandIn({"default": [{"fault": "hang"}, DONE]}) as model:
        client = client_of(model, timeout=60)
        asking = threading.Thread(target=ask)
        asking.start()
        model.wait_for_requests(1)
    asking.join(10)
    assert outcome


def test_garbage_is_no_message(plays: Any) -> None:
    with pytest.raises(UnicodeDecodeError):
        stream(client_of(plays({"fault": "garbage", "after_events": 2}, RICH)))


def test_slow_keeps_every_event_back(plays: Any) -> None:
    model = plays({"fault": "slow", "chunk_delay_s": 0.05}, DONE)
    stream(client_of(model))
    (request,) = model.wait_until(lambda requests: requests[0].delivered)
    assert request.finished_at - request.arrived_at > 0.05 * 6


@pytest.mark.parametrize("after_events", [0, 3])
def test_a_gate_holds_a_call_in_the_air(plays: Any, after_events: int) -> None:
    model = plays({**DONE, "gate": "first", "gate_after_events": after_events})
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(stream, client_of(model)) for _ in range(2)]
        held = model.wait_for_held("first", count=2)
        assert [request.status for request in held] == [200 if after_events else None] * 2
        assert not any(future.done() for future in both)
        model.open_gate("first")
        assert {future.result(10).stop_reason for future in both} == {"end_turn"}
    assert all(request.held_at is None for request in model.requests)


def test_waiting_in_vain_says_what_was_there(plays: Any) -> None:
    with pytest.raises(TimeoutError, match="requests so far"):
        plays(DONE).wait_for_requests(1, timeout=0.05)


def test_a_client_that_leaves_did_not_get_the_reply(plays: Any) -> None:
    model = plays({**RICH, "gate": "middle", "gate_after_events": 5})
    client = client_of(model)
    with client.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as events:
        model.wait_for_held("middle")
        events.close()
    (request,) = model.wait_until(lambda requests: requests[0].finished_at is not None)
    assert not request.delivered


def test_a_turn_may_be_a_function_of_the_request(plays: Any) -> None:
    model = plays(lambda request: {"content": [{"type": "text", "text": request["messages"][0]["content"].upper()}]})
    (block,) = stream(client_of(model)).content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == "HELLO"


def test_what_a_function_raises_is_heard() -> None:
    def refuse(request: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("the second result is missing")

    with (
        pytest.raises(AssertionError, match="second result"),
        ModelStandIn({"default": [refuse]}) as model,
        pytest.raises(anthropic.BadRequestError, match="second result"),
    ):
        stream(client_of(model))


def test_a_script_that_is_too_short_or_misnamed_says_so(plays: Any) -> None:
    model = plays(CALL)
    with pytest.raises(anthropic.BadRequestError, match="has 1 turns, and turn 1 was asked for"):
        converse(client_of(model), "hello")
    with pytest.raises(anthropic.BadRequestError, match="no trajectory 'nowhere'"):
        converse(client_of(model), "[trajectory:nowhere]")


@pytest.mark.parametrize("entry", [{"fualt": "cut"}, {"fault": "explode"}, {}, {**DONE, "chunks": 3}])
def test_a_typing_error_in_a_script_is_found_at_once(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"key|fault"):
        ModelStandIn({"default": [entry]})


USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "run_command", "input": {}}]}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "ok"}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "at least one message"),
        ([{"role": "assistant", "content": "hi"}, *HELLO], "first message"),
        ([*HELLO, *HELLO], "alternate"),
        ([*HELLO, {"role": "assistant", "content": "hi"}], "end with a user message"),
        ([*HELLO, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, *HELLO], "alternate"),
        ([{"role": "system", "content": "hi"}], "role"),
        ([{"role": "user", "content": ""}], "non-empty content"),
        ([user({"type": "text", "text": ""})], "text content blocks must be non-empty"),
        ([user({"type": "text", "text": "x", "id": 3})], r"content\.0\.text\.id: Extra inputs"),
        ([{**HELLO[0], "seq": 1}], r"messages\.0\.seq: Extra inputs"),
        ([*HELLO, USE, user({"type": "text", "text": "go on"})], "has no tool_result"),
        ([*HELLO, USE, user({**RESULT, "tool_use_id": "b"})], "has no tool_result"),
        ([*HELLO, USE, user(RESULT, {**RESULT, "tool_use_id": "b"})], "has no tool_use"),
        ([user(RESULT)], "has no tool_use"),
        ([*HELLO, USE, user(RESULT, RESULT)], "single result"),
        ([*HELLO, USE, user({"type": "text", "text": "see"}, RESULT)], "come first"),
        ([*HELLO, USE, user(RESULT), USE, user(RESULT)], "ids must be unique"),
        ([*HELLO, USE, user({**RESULT, "content": "", "is_error": True})], "cannot be empty"),
        ([*HELLO, USE, user({**RESULT, "content": [{"type": "text", "text": ""}]})], "non-empty"),
        ([*HELLO, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}, *HELLO],
         "Invalid `signature`"),
        ([user({"type": "tool_use", "id": "a", "name": "run_command", "input": {}})], "cannot be in user messages"),
        ([user(*[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 5)], "Found 5"),
    ],
)  # fmt: skip
def test_a_conversation_that_the_api_would_refuse_is_refused(plays: Any, messages: list[Any], why: str) -> None:
    model = plays(DONE)
    with pytest.raises(anthropic.BadRequestError, match=why) as caught:
        client_of(model).messages.create(model=MODEL, max_tokens=9, messages=messages, tools=[TOOL])  # type: ignore[list-item]
    assert "invalid_request_error" in str(caught.value)
    assert why.replace("\\", "")[:8].split()[0] in str(model.requests[0].error)


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"model": None}, 400, "model: Field required"),
        ({"max_tokens": None}, 400, "max_tokens: Field required"),
        ({"max_tokens": "9"}, 400, "max_tokens: Input should be a valid int"),
        ({"max_tokens": 0}, 400, "greater than 0"),
        ({"model": "gpt-9"}, 404, "model: gpt-9"),
        ({"step": 3}, 400, "step: Extra inputs are not permitted"),
        ({"tools": [{**TOOL, "name": "no good"}]}, 400, "not a valid tool name"),
        ({"tools": [TOOL, TOOL]}, 400, "unique"),
        ({"tools": [{"name": "a"}]}, 400, "input_schema"),
        ({"messages": [*HELLO, USE, user(RESULT)]}, 400, "must define tools"),
    ],
)
def test_a_request_that_the_api_would_refuse_is_refused(
    plays: Any, change: dict[str, Any], status: int, why: str
) -> None:
    body = {"model": MODEL, "max_tokens": 9, "messages": HELLO} | change
    body = {name: value for name, value in body.items() if value is not None}
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    reply = httpx.post(f"{plays(DONE).base_url}/v1/messages", json=body, headers=headers)
    assert (reply.status_code, reply.json()["type"]) == (status, "error")
    assert why in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, b"{}", 401),
        ({"x-api-key": "wrong", "anthropic-version": "1"}, b"{}", 401),
        ({"x-api-key": "right"}, b"{}", 400),
        ({"authorization": "Bearer right", "anthropic-version": "1"}, b"{}", 400),
        ({"authorization": "Bearer wrong", "anthropic-version": "1"}, b"{}", 401),
        ({"x-api-key": "right", "anthropic-version": "1"}, b"{not json", 400),
        ({"x-api-key": "right", "anthropic-version": "1"}, b" " * (33 * 1024 * 1024), 413),
    ],
)
def test_keys_and_bodies_are_checked(plays: Any, headers: dict[str, str], content: bytes, status: int) -> None:
    model = plays(DONE, api_key="right")
    reply = httpx.post(f"{model.base_url}/v1/messages", content=content, headers=headers)
    assert reply.status_code == status
    assert httpx.get(f"{model.base_url}/v1/messages").status_code == 404


def test_a_paused_turn_is_continued_without_a_user_message(plays: Any) -> None:
    model = plays({**DONE, "stop_reason": "pause_turn"}, DONE)
    paused = stream(client_of(model))
    content = [block.model_dump(exclude_none=True) for block in paused.content]
    assert stream(client_of(model), [*HELLO, {"role": "assistant", "content": content}]).stop_reason == "end_turn"


def test_every_field_that_the_sdk_can_send_is_known() -> None:
    assert set(get_type_hints(MessageCreateParamsBase)) | {"stream"} <= KNOWN_FIELDS


def test_it_runs_by_hand(tmp_path: Path) -> None:
    script = tmp_path / "turns.json"
    script.write_text(json.dumps([DONE]))
    command = [sys.executable, "-m", "tests.standin.model", "--trajectory", str(script), "--delay", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready, address = process.stdout.readline().split()
        assert ready == "ready"
        message = stream(client_at(address))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert message.stop_reason == "end_turn"
