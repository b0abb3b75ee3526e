"""A turn as the Messages API sends it: the events of a stream, or one JSON object."""

import json
import uuid
from collections.abc import Iterator

from tests.standin.trajectory import Json, Turn

Event = tuple[str, Json]


def encode(event: Event) -> bytes:
    name, data = event
    text = json.dumps({"type": name, **data}, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n".encode()


def whole_message(turn: Turn, model: str) -> Json:
    """The reply to a request without `stream`."""
    return {
        **_empty_message(model),
        "content": turn.content,
        "stop_reason": turn.stop_reason,
        "usage": {**turn.usage, "service_tier": "standard"},
    }


def events(turn: Turn, model: str) -> Iterator[Event]:
    start_usage = {**turn.usage, "output_tokens": 1, "service_tier": "standard"}
    yield "message_start", {"message": {**_empty_message(model), "usage": start_usage}}
    for index, block in enumerate(turn.content):
        empty, deltas = _block_in_pieces(block, turn.chunk_chars)
        yield "content_block_start", {"index": index, "content_block": empty}
        if index == 0:
            yield "ping", {}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    yield "message_delta", {"delta": {"stop_reason": turn.stop_reason, "stop_sequence": None}, "usage": turn.usage}
    yield "message_stop", {}


def _empty_message(model: str) -> Json:
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _block_in_pieces(block: Json, size: int) -> tuple[Json, list[Json]]:
    """The block as its start announces it, and the deltas that fill it."""
    match block["type"]:
        case "text":
            pieces = _pieces(block["text"], size)
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
        case "thinking":
            thoughts: list[Json] = [
                {"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"], size)
            ]
            thoughts.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, thoughts
        case "tool_use" | "server_tool_use":
            # The API opens each input with an empty delta, and so tells an empty input from none at all.
            parts = ["", *_pieces(json.dumps(block["input"], ensure_ascii=False), size)]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
        case _:
            return block, []


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
