"""The model's event stream: server-sent events, put together into one response as the Messages API means it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Dict

from agent_runtime.unix_http import Reply

Event = Dict[str, Any]


class StreamCut(Exception):
    """The stream ended before `message_stop`: nothing was recorded, the same step is asked again."""


class EventParser:
    """Incremental: feed bytes as they come, get the events that became complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in (line.rstrip(b"\r") for line in lines):
            if line.startswith(b"data:"):
                self._data.append(line[5:].lstrip(b" "))
            elif not line and self._data:
                data, self._data = b"\n".join(self._data), []
                yield _event(data)


def _event(data: bytes) -> Event:
    try:
        event: Event = json.loads(data)
        event["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise StreamCut(f"an event is garbled: {error!r}") from error
    return event


class ResponseBuilder:
    """Content blocks, stop reason and usage of one response. Blocks of unknown types are kept as they came."""

    def __init__(self) -> None:
        self.complete = False
        self._blocks: dict[int, dict[str, Any]] = {}
        self._input_json: dict[int, str] = {}
        self._stop_reason: str | None = None
        self._usage: dict[str, Any] = {}

    def add(self, event: Event) -> None:
        kind = event["type"]
        if kind == "message_start":
            self._usage.update(event["message"].get("usage") or {})
        elif kind == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            self._add_delta(event["index"], event["delta"])
        elif kind == "content_block_stop":
            self._close_block(event["index"])
        elif kind == "message_delta":
            self._stop_reason = event["delta"].get("stop_reason") or self._stop_reason
            self._usage.update(event.get("usage") or {})
        elif kind == "message_stop":
            self.complete = True
        elif kind == "error":
            raise StreamCut(f"the model's stream failed: {event.get('error')}")

    def response(self) -> dict[str, Any]:
        for index in list(self._input_json):  # a block cut off by the output limit has no stop event
            self._close_block(index)
        content = [self._blocks[index] for index in sorted(self._blocks)]
        return {"content": content, "stop_reason": self._stop_reason, "usage": self._usage}

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        block, kind = self._blocks[index], delta["type"]
        if kind == "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
        elif kind == "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
        elif kind == "signature_delta":
            block["signature"] = block.get("signature", "") + delta["signature"]
        elif kind == "input_json_delta":
            self._input_json[index] = self._input_json.get(index, "") + delta["partial_json"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]

    def _close_block(self, index: int) -> None:
        text = self._input_json.pop(index, "")
        if not text:
            return
        try:
            value = json.loads(text)
        except ValueError:
            value = {}  # the API takes objects only; the arguments are then refused as incomplete
        self._blocks[index]["input"] = value if isinstance(value, dict) else {}


def read_response(reply: Reply) -> dict[str, Any]:
    """Read a stream to its end, so that the connection can be used again. Raises StreamCut."""
    parser, builder = EventParser(), ResponseBuilder()
    while received := reply.read_some():
        for event in parser.feed(received):
            try:
                builder.add(event)
            except (KeyError, TypeError, AttributeError) as error:
                raise StreamCut(f"an event has a wrong shape: {error!r}") from error
    if not builder.complete:
        raise StreamCut("the stream ended without message_stop")
    return builder.response()
