"""A message out of the events of its stream (Messages API, server-sent events, as dictionaries).

The content is kept as received, field for field, since it goes back to the model unchanged: blocks of kinds that
we don't know pass through too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from infra.models import Usage
from workers.relay import words

StreamEvent = dict[str, Any]


class StreamBrokenError(Exception):
    """The stream ended without `message_stop`, or made no sense: an error, never a short answer."""


class Assembly:
    """Feed it each event in order; `response` is complete once `done`."""

    def __init__(self, clean: Callable[[Any], Any] = lambda value: value) -> None:
        """`clean` is applied to the arguments of tools: JSON can say a character in more ways than one."""
        self._clean = clean
        self.done = False
        self._message: dict[str, Any] | None = None
        self._blocks: list[dict[str, Any]] = []
        self._json: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}

    def feed(self, event: StreamEvent) -> None:
        """Raises StreamBrokenError for events out of order."""
        try:
            self._feed(event)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StreamBrokenError(f"unreadable stream event {event.get('type')}: {error}") from error

    @property
    def usage(self) -> Usage:
        return Usage.model_validate({key: value or 0 for key, value in self._usage.items() if _is_count(key)})

    @property
    def response(self) -> dict[str, Any]:
        """`{content, stop_reason, usage}`, the response half of a step record."""
        stop_reason = (self._message or {}).get("stop_reason")
        return {"content": self._blocks, "stop_reason": stop_reason, "usage": self.usage.model_dump()}

    def texts(self, kind: str) -> str:
        """The text of all blocks of one kind (`text` or `thinking`), joined by an empty line."""
        return "\n\n".join(text for block in self._blocks if block.get("type") == kind and (text := block.get(kind)))

    def _feed(self, event: StreamEvent) -> None:
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
                self._usage.update(self._message.get("usage") or {})
            case "content_block_start":
                if event["index"] != len(self._blocks):
                    raise ValueError("block out of order")
                self._blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                self._extend(event["index"], event["delta"])
            case "content_block_stop":
                self._close(event["index"])
            case "message_delta":
                if self._message is None:
                    raise ValueError("delta before start")
                self._message.update(event["delta"])
                self._usage.update({k: v for k, v in (event.get("usage") or {}).items() if v is not None})
            case "message_stop":
                if self._message is None or not self._message.get("stop_reason"):
                    raise ValueError("stop before its reason")
                self.done = True

    def _extend(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        match delta["type"]:
            case "text_delta":
                block["text"] = block.get("text", "") + delta["text"]
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._json.setdefault(index, []).append(delta["partial_json"])
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]

    def _close(self, index: int) -> None:
        text = "".join(self._json.pop(index, []))
        if text:
            # An answer that was cut at max_tokens may hold half an argument list; the loop answers such a call
            # with an error, so what is kept only has to be valid.
            self._blocks[index]["input"] = self._clean(_json_object(text))


def stream_events(response: dict[str, Any], *, model: str, message_id: str) -> list[StreamEvent]:
    """The stream of a recorded response: what `Assembly` makes that response of. One delta a block."""
    usage = response["usage"]
    start: dict[str, Any] = {
        "id": f"msg_{message_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 0},
    }
    events: list[StreamEvent] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(response["content"]):
        events += _block_events(index, block)
    stop = {"stop_reason": response["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": stop, "usage": usage})
    events.append({"type": "message_stop"})
    return events


def _block_events(index: int, block: dict[str, Any]) -> list[StreamEvent]:
    empty, deltas = dict(block), []
    match block.get("type"):
        case "text":
            empty["text"] = ""
            deltas = [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            empty.update(thinking="", signature="")
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block.get("signature", "")},
            ]
        case "tool_use":
            empty["input"] = {}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    return [
        {"type": "content_block_start", "index": index, "content_block": empty},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = words.read(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_count(key: str) -> bool:
    return key in Usage.model_fields
