"""What of a model call a sandbox may choose: words, and tools that run in the sandbox. Nothing that others do for it.

The Messages API can also search the web, fetch addresses, run code and read files of the account for whoever asks. Each
would be a way out of the sandbox past its link, and some are billed beyond tokens. So a request is built anew from the
parts that are known; what else it holds is refused, or, where it changes nothing but the price, left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from agent_runtime.protocol import StepRecord
from infra.errors import InvalidInputError
from workers.relay import words

Block = dict[str, Any]

_KINDS = frozenset({"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"})
_IN_RESULTS = frozenset({"text", "image"})
_TOOL_FIELDS = ("name", "description", "input_schema")
_FRAMING_TOKENS = 1024
"""What the API adds around a turn: role markers, tool framing."""

Steps = Mapping[int, StepRecord]


def read_request(body: bytes, steps: Steps) -> dict[str, Any]:
    """`messages`, `system`, `tools` and `max_tokens` of a request's body; `steps` are those recorded so far.

    Raises:
        InvalidInputError: it is no request, or asks for more than a sandbox may.
    """
    try:
        given = words.read(body)
        max_tokens = float(given["max_tokens"])
        if not math.isfinite(max_tokens) or max_tokens < 1 or not given["messages"][-1]["content"]:
            raise ValueError("empty")
        kinds = _KINDS | _kinds_received(steps)
        request: dict[str, Any] = {
            "messages": [_message(message, kinds) for message in given["messages"]],
            "max_tokens": int(max_tokens),
        }
        if given.get("system"):
            request["system"] = _content(given["system"], frozenset({"text"}))
        if given.get("tools"):
            request["tools"] = [_tool(tool) for tool in given["tools"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InvalidInputError(f"not a Messages API request: {error!r}") from None
    return request


def prompt_bound(request: dict[str, Any], step: int, steps: Steps, *, same_frame: bool) -> int:
    """An upper bound of the prompt's tokens: a token is at least one byte of what is new since the last count.

    Only what was counted may be left out: the turns that are recorded, and instructions and tools where these are
    the same as in the attempt's last call (`same_frame`). A history that is not the recorded one is new as a whole.
    """
    size = _bytes(request)
    previous = steps.get(step - 1)
    before = (
        sum(count for key, count in previous["response"]["usage"].items() if key.endswith("_tokens")) if previous else 0
    )
    new = _unrecorded(request["messages"], step, steps)
    if not before or new is None:
        return size
    frame = 0 if same_frame else _bytes({name: request.get(name) for name in ("system", "tools")})
    return min(size, before + frame + _bytes(new) + _FRAMING_TOKENS)


def _unrecorded(messages: list[Block], step: int, steps: Steps) -> list[Block] | None:
    """The turns after those of the recorded steps; None when the turns before are not theirs."""
    rest = iter(messages)
    turn = next(rest, None)
    for number in range(1, step):
        record = steps.get(number)
        if record is None:
            return None
        if record["user_turn"] is not None:
            if turn != record["user_turn"]:
                return None
            turn = next(rest, None)
        if turn is not None and turn["role"] == "assistant":
            if not _is_part(turn["content"], record["response"]["content"]):
                return None
            turn = next(rest, None)
    return [] if turn is None else [turn, *rest]


def _is_part(sent: Any, received: list[Block]) -> bool:
    """Whether a turn has nothing but blocks of the answer, each at most once: some answers can't be sent back whole."""
    remaining = iter(received)
    return isinstance(sent, list) and all(block in remaining for block in sent)


def _kinds_received(steps: Steps) -> frozenset[str]:
    """A model's answer goes back to it as it came, blocks of kinds that we don't know included."""
    return frozenset(str(block.get("type")) for record in steps.values() for block in record["response"]["content"])


def _message(message: Block, kinds: frozenset[str]) -> Block:
    role = message["role"]
    if role not in ("user", "assistant"):
        raise ValueError(f"role {role!r}")
    return {"role": role, "content": _content(message["content"], kinds if role == "assistant" else _KINDS)}


def _content(content: Any, kinds: frozenset[str]) -> Any:
    if isinstance(content, str):
        return content
    return [_block(block, kinds) for block in content]


def _block(block: Block, kinds: frozenset[str]) -> Block:
    kind = block["type"]
    if kind not in kinds:
        raise ValueError(f"a sandbox may not send a block of the kind {kind!r}")
    if kind == "image" and block["source"]["type"] != "base64":
        raise ValueError(f"a sandbox may not have the model's service fetch an image by {block['source']['type']!r}")
    # How long a prompt is cached has its price, and is the worker's to say.
    kept = {key: value for key, value in block.items() if key != "cache_control"}
    if kind == "tool_result" and "content" in kept:
        kept["content"] = _content(kept["content"], _IN_RESULTS)
    return kept


def _tool(tool: Block) -> Block:
    """Raises ValueError for a tool that the model's service would run itself."""
    if tool.get("type", "custom") != "custom":
        raise ValueError(f"a sandbox may not use the tool {tool['type']!r} of the model's service")
    return {field: tool[field] for field in _TOOL_FIELDS if field in tool}


def _bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())
