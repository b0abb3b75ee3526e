"""Server-sent events: however the bytes are cut, the same response comes out."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.stream import EventParser, ResponseBuilder, StreamCut
from tests.unit.runtime.linkserver import events, says, text, tool_use

REPLY = says(
    {"type": "thinking", "thinking": "Hm\n\n…", "signature": "c2ln"},
    "Grüße, 世界\r\n\r\ndata: not an event",
    tool_use("write_file", "t1", path="ü", content='{"a": "\\n"}'),
    {"type": "server_tool_use", "id": "s1", "name": "web", "input": {"q": 1}},
)
RAW = b"".join(
    f": a comment\r\nevent: {event['type']}\r\ndata: {json.dumps(event, ensure_ascii=False)}\r\n\r\n".encode()
    for event in events(REPLY)
)


def build(pieces: list[bytes]) -> ResponseBuilder:
    parser, builder = EventParser(), ResponseBuilder()
    for piece in pieces:
        for event in parser.feed(piece):
            builder.add(event)
    return builder


@given(st.lists(st.integers(0, len(RAW)), max_size=30))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    at = sorted({0, len(RAW), *cuts})
    builder = build([RAW[start:end] for start, end in pairwise(at)])
    assert builder.complete
    assert builder.response() == {**REPLY, "usage": {"input_tokens": 1, "output_tokens": 2}}


@given(st.integers(0, len(RAW) - 1))
def test_less_than_all_is_not_complete(length: int) -> None:
    assert not build([RAW[:length]]).complete


def delta(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **fields}}


def test_citations_are_collected_and_unknown_events_ignored() -> None:
    builder = ResponseBuilder()
    for event in (
        {"type": "something_new"},
        {"type": "content_block_start", "index": 0, "content_block": {**text(""), "citations": None}},
        delta("text_delta", text="so"),
        delta("citations_delta", citation={"n": 1}),
        delta("citations_delta", citation={"n": 2}),
        delta("something_new", anything=1),
    ):
        builder.add(event)
    assert builder.response()["content"] == [{**text("so"), "citations": [{"n": 1}, {"n": 2}]}]


def test_input_without_a_stop_event_is_still_parsed() -> None:
    builder = ResponseBuilder()
    builder.add({"type": "content_block_start", "index": 0, "content_block": tool_use("t", "x")})
    builder.add(delta("input_json_delta", partial_json='{"a": 1}'))
    assert builder.response()["content"][0]["input"] == {"a": 1}


@pytest.mark.parametrize("garbage", [b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n", b"data: 1\n\n"])
def test_garbage_is_a_cut_stream(garbage: bytes) -> None:
    with pytest.raises(StreamCut):
        list(EventParser().feed(garbage))


def test_an_error_event_is_a_cut_stream() -> None:
    with pytest.raises(StreamCut, match="overloaded"):
        ResponseBuilder().add({"type": "error", "error": {"type": "overloaded_error"}})
