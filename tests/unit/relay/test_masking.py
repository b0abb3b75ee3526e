"""What a mask hides, however it is said, and what it leaves alone."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.tools.bounded import HeadAndTail
from workers.relay.assemble import Assembly
from workers.relay.masking import MASK, Mask

PASSWORD = 'pa"ss wörd/1'
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
SECRETS = {"PASSWORD": PASSWORD, "KEY": KEY, "SHORT": "abababab", "LONG": "ababababcdcdcdcd"}


def deltas(kind: str, field: str, pieces: list[str], index: int = 0) -> list[dict[str, Any]]:
    made = [{"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}} for piece in pieces]
    return [*made, {"type": "content_block_stop", "index": index}]


def said(events: list[dict[str, Any]], field: str) -> str:
    return "".join(event["delta"].get(field, "") for event in events if event["type"] == "content_block_delta")


@pytest.mark.parametrize(
    "text",
    [
        PASSWORD,
        f"DB={PASSWORD};",
        json.dumps({"password": PASSWORD}),
        json.dumps({"password": PASSWORD}, ensure_ascii=False),
        "https://me:pa%22ss%20w%C3%B6rd%2F1@db.example/",
        "pa%22ss+w%C3%B6rd%2F1",
        KEY,
        "   MIIEvQIBADANBg\n",
        "     2\tkqhkiG9w0BAQEF",
    ],
)
def test_a_secret_is_masked_in_each_of_its_forms(text: str) -> None:
    masked = Mask(SECRETS).text(text)
    assert MASK in masked
    assert not any(part in masked for part in ('pa"ss', "pa%22", "MIIE", "kqhk", 'pa\\"ss'))
    assert Mask(SECRETS).in_bytes(text.encode()).decode() == masked


def test_the_longer_of_two_that_begin_alike_is_masked_whole() -> None:
    assert Mask(SECRETS).text("x ababababcdcdcdcd y abababab") == f"x {MASK} y {MASK}"


def test_without_secrets_nothing_is_changed() -> None:
    value = {"a": [PASSWORD]}
    assert Mask().deep(value) is value
    assert list(Mask().stream([{"type": "ping"}])) == [{"type": "ping"}]


def test_json_is_masked_in_depth_but_for_what_only_its_maker_reads() -> None:
    turn = {"content": [{"type": "tool_result", "tool_use_id": "abababab", "content": f"a {PASSWORD}"}], "n": 1}
    assert Mask(SECRETS).deep(turn) == {
        "content": [{"type": "tool_result", "tool_use_id": "abababab", "content": f"a {MASK}"}], "n": 1,
    }  # fmt: skip
    assert Mask(SECRETS).deep({f"x{PASSWORD}": True}) == {f"x{MASK}": True}


@given(
    parts=st.lists(st.sampled_from([*SECRETS.values(), "abab", "cd", "pa", 'pa"ss', " ", "wort", "\n"]), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=30),
)
def test_however_a_stream_is_cut_it_says_the_same_as_the_whole(parts: list[str], cuts: list[int]) -> None:
    text, mask = "".join(parts), Mask(SECRETS)
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(at)]
    events = list(mask.stream(deltas("text_delta", "text", pieces)))
    assert said(events, "text") == mask.text(text)
    assert events[-1]["type"] == "content_block_stop"
    for number in range(len(events)):  # what has been said at any moment holds no secret
        assert not any(secret in said(events[: number + 1], "text") for secret in SECRETS.values())


def test_only_what_may_become_a_secret_is_held_back() -> None:
    stream = Mask({"A": "swordfish"}).stream(
        iter(deltas("text_delta", "text", ["all of this sw", "ing", " swordfis", "h!"]))
    )
    assert [event["delta"]["text"] for event in stream if "delta" in event] == [
        "all of this ",
        "swing",
        " ",
        f"{MASK}!",
    ]


def test_a_block_that_ends_in_the_beginning_of_a_secret_is_said_whole() -> None:
    events = list(Mask(SECRETS).stream(deltas("text_delta", "text", ['say pa"s'])))
    assert said(events, "text") == 'say pa"s'


def test_arguments_of_tools_however_json_says_them() -> None:
    odd = '{"command": "echo \\u0061bababab"}'
    plain = json.dumps({"command": f"echo {PASSWORD}"})
    for text in (odd, plain):
        mask = Mask(SECRETS)
        assembly = Assembly(mask.deep)
        head: list[dict[str, Any]] = [
            {"type": "message_start", "message": {}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "i", "input": {}}},
        ]
        for event in mask.stream([*head, *deltas("input_json_delta", "partial_json", list(text))]):
            assembly.feed(event)
        assert assembly.response["content"][0]["input"] == {"command": f"echo {MASK}"}


def test_thinking_that_was_changed_is_not_signed() -> None:
    signature = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}}
    for text, left in ((f"hm {PASSWORD} hm", ""), ("hm abababab", ""), ("nothing here", "s")):
        *pieces, stop = deltas("thinking_delta", "thinking", [text])
        assert said(list(Mask(SECRETS).stream([*pieces, signature, stop])), "signature") == left


@pytest.mark.parametrize("shift", range(0, 40, 3))
def test_a_secret_that_the_runtime_has_cut_in_two(shift: int) -> None:
    kept = HeadAndTail(60)
    kept.add(
        b"x" * shift + b"0123456789-swordfish-9876543210" + b"y" * 40 + b"0123456789-swordfish-9876543210" + b"z" * 9
    )
    masked = Mask({"A": "0123456789-swordfish-9876543210"}).output(kept.text())
    assert "01234" not in masked
    assert "43210" not in masked
    assert "bytes cut" in masked


def test_names_of_what_stands_in_a_patch() -> None:
    assert Mask(SECRETS).found_in(b"+x = 'ababababcdcdcdcd'\n") == ["SHORT", "LONG"]
    assert Mask(SECRETS).found_in(b"nothing") == []
