"""What the Messages API refuses, where a wrong client would show. Each check raises `Refused`, as the API answers."""

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from tests.standin.trajectory import Json, sign, type_of_status

KNOWN_FIELDS = {
    *("model", "messages", "max_tokens", "system", "tools", "tool_choice", "stream", "thinking", "output_config"),
    *("temperature", "top_p", "top_k", "stop_sequences", "metadata", "service_tier", "container", "cache_control"),
    *("inference_geo", "speed", "diagnostics", "context_management", "mcp_servers", "user_profile_id", "workspace_id"),
}
_BLOCK_FIELDS = {
    "text": {"text", "citations"},
    "tool_use": {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "server_tool_use": {"id", "name", "input", "caller"},
}
_ROLE_OF_BLOCK = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "server_tool_use": "assistant",
    "tool_result": "user",
    "image": "user",
    "document": "user",
}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Refused(Exception):  # noqa: N818 - the API's own word would be "error", for any of them
    """An API error: the status and message to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = type_of_status.get(status, "api_error")


def check_headers(headers: dict[str, str], api_key: str | None) -> None:
    """`api_key` None accepts any key that is not empty."""
    # The SDK 2.x sends its key as a bearer token, older ones and plain HTTP clients as x-api-key.
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not given:
        raise Refused(401, "an x-api-key or Authorization: Bearer header is required")
    if api_key is not None and given != api_key:
        raise Refused(401, "invalid API key")
    if "anthropic-version" not in headers:
        raise Refused(400, "anthropic-version: header is required")


def check_body(body: Any, models: Sequence[str], pauses_at: Callable[[list[Json], int], bool]) -> None:
    """`pauses_at(messages, n)` tells whether the n-th answer ended with pause_turn, so that the model speaks again."""
    _require(isinstance(body, dict), "the body must be a JSON object")
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        _require(name in body, f"{name}: Field required")
        _require(isinstance(body[name], kind), f"{name}: Input should be a valid {kind.__name__}")
    for name in sorted(set(body) - KNOWN_FIELDS):
        _require(condition=False, message=f"{name}: Extra inputs are not permitted")
    _require(body["max_tokens"] > 0, "max_tokens: Input should be greater than 0")
    if not any(fnmatchcase(body["model"], pattern) for pattern in models):
        raise Refused(404, f"model: {body['model']}")
    _check_tools(body)
    _check_messages(body["messages"])
    _check_order(body["messages"], pauses_at)
    _check_tool_pairs(body["messages"])
    _check_cache_marks(body)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(400, message)


def _check_tools(body: Json) -> None:
    names = set()
    for index, tool in enumerate(body.get("tools", [])):
        _require(bool(_NAME.fullmatch(str(tool.get("name", "")))), f"tools.{index}.name: not a valid tool name")
        _require(tool["name"] not in names, f"tools: Tool names must be unique ({tool['name']})")
        names.add(tool["name"])
        if tool.get("type", "custom") == "custom":
            schema = tool.get("input_schema")
            is_object = isinstance(schema, dict) and schema.get("type") == "object"
            _require(is_object, f"tools.{index}.input_schema.type: Input should be 'object'")
    uses_tools = any(block["type"] in {"tool_use", "tool_result"} for block in _blocks_of(body["messages"]))
    _require(bool(names) or not uses_tools, "requests with tool_use or tool_result blocks must define tools")


def _blocks_of(messages: list[Any]) -> Iterator[Json]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (block for block in content if isinstance(block, dict) and "type" in block)


def _check_messages(messages: list[Any]) -> None:
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        _require(isinstance(message, dict), f"{place}: Input should be an object")
        for name in sorted(set(message) - {"role", "content"}):
            _require(condition=False, message=f"{place}.{name}: Extra inputs are not permitted")
        _require(message.get("role") in {"user", "assistant"}, f"{place}.role: Input should be 'user' or 'assistant'")
        content = message.get("content")
        _require(isinstance(content, str | list), f"{place}.content: Input should be a string or a list")
        _require(bool(content), f"{place}: messages must have non-empty content")
        if isinstance(content, list):
            for block_index, block in enumerate(content):
                _check_block(block, message["role"], f"{place}.content.{block_index}")


def _check_block(block: Any, role: str, place: str) -> None:
    _require(isinstance(block, dict) and "type" in block, f"{place}.type: Field required")
    kind = block["type"]
    _require(kind in _BLOCK_FIELDS, f"{place}: Input tag {kind!r} is not one of {sorted(_BLOCK_FIELDS)}")
    _require(_ROLE_OF_BLOCK.get(kind, role) == role, f"{place}: `{kind}` blocks cannot be in {role} messages")
    for name in sorted(set(block) - _BLOCK_FIELDS[kind] - {"type", "cache_control"}):
        _require(condition=False, message=f"{place}.{kind}.{name}: Extra inputs are not permitted")
    if kind == "text":
        _require(bool(block.get("text")), f"{place}: text content blocks must be non-empty")
    elif kind == "thinking":
        genuine = block.get("signature") == sign(str(block.get("thinking")))
        _require(genuine, f"{place}: Invalid `signature` in `thinking` block")
    elif kind == "tool_use":
        _require(isinstance(block.get("input"), dict), f"{place}.tool_use.input: Input should be a valid dictionary")
        _require(bool(_NAME.fullmatch(str(block.get("id", "")))), f"{place}.tool_use.id: String should match pattern")
    elif kind == "tool_result":
        _check_result_content(block, place)


def _check_result_content(block: Json, place: str) -> None:
    content = block.get("content", "")
    _require(isinstance(content, str | list), f"{place}.content: Input should be a string or a list")
    _require(bool(content) or not block.get("is_error"), f"{place}: content cannot be empty if `is_error` is true")
    if isinstance(content, list):
        for part in content:
            if part.get("type") == "text":
                _require(bool(part.get("text")), f"{place}.content: text content blocks must be non-empty")


def _check_order(messages: list[Json], pauses_at: Callable[[list[Json], int], bool]) -> None:
    _require(bool(messages), "messages: at least one message is required")
    _require(messages[0]["role"] == "user", "messages: first message must use the user role")
    answers = 0
    for index, message in enumerate(messages):
        follower = messages[index + 1]["role"] if index + 1 < len(messages) else "assistant"
        if message["role"] == "assistant":
            answers += 1
            continues = follower == "assistant" and pauses_at(messages, answers - 1)
            last = index + 1 == len(messages)
            why = "the conversation must end with a user message" if last else "roles must alternate"
            _require(follower == "user" or continues, f"messages.{index}: {why}")
        else:
            _require(follower == "assistant", f"messages.{index}: roles must alternate between user and assistant")


def _check_tool_pairs(messages: list[Json]) -> None:
    seen: set[str] = set()
    asked: list[str] = []
    for index, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        results = [block.get("tool_use_id") for block in blocks if block["type"] == "tool_result"]
        leading = all(block["type"] == "tool_result" for block in blocks[: len(results)])
        _require(leading, f"messages.{index}: tool_result blocks must come first in content")
        for tool_id in asked:
            _require(tool_id in results, f"messages.{index}: tool_use {tool_id} has no tool_result right after it")
        for tool_id in results:
            _require(tool_id in asked, f"messages.{index}: tool_result {tool_id} has no tool_use right before it")
        _require(len(results) == len(set(results)), f"messages.{index}: each tool_use must have a single result")
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
        _require(not seen.intersection(asked), f"messages.{index}: `tool_use` ids must be unique")
        _require(len(asked) == len(set(asked)), f"messages.{index}: `tool_use` ids must be unique")
        seen.update(asked)


def _check_cache_marks(body: Json) -> None:
    system = body.get("system")
    blocks = [*(system if isinstance(system, list) else []), *body.get("tools", []), *_blocks_of(body["messages"])]
    count = sum(1 for block in [*blocks, body] if block.get("cache_control"))
    _require(count <= 4, f"a maximum of 4 blocks with cache_control may be provided. Found {count}.")
