"""What clients send is refused with a word on what is wrong; nothing that they send breaks the parser."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gateway.frames import InvalidFrameError, StartTask, Subscribe, parse

TASK = str(uuid4())


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({}, "type"),
        ({"type": "dance"}, "dance"),
        ({"type": "subscribe"}, "exactly one of task_id and feed"),
        ({"type": "subscribe", "task_id": TASK, "feed": "tasks"}, "exactly one of task_id and feed"),
        ({"type": "subscribe", "feed": "weather"}, "feed"),
        ({"type": "subscribe", "task_id": TASK, "after": -1}, "after"),
        ({"type": "subscribe", "task_id": TASK, "after": "1"}, "after"),
        ({"type": "subscribe", "task_id": TASK, "after": 2**63}, "after"),
        ({"type": "subscribe", "task_id": "1"}, "task_id"),
        ({"type": "cancel", "task_id": TASK}, "request_id"),
        ({"type": "cancel", "task_id": TASK, "request_id": ""}, "request_id"),
        ({"type": "cancel", "task_id": TASK, "request_id": "a\nb"}, "request_id"),
        ({"type": "cancel", "task_id": TASK, "request_id": "r", "force": True}, "force"),
        ({"type": "send_message", "task_id": TASK, "request_id": "r", "text": " "}, "text"),
        ({"type": "start_task", "request_id": "r", "prompt": "p"}, "exactly one of repo_url and project_id"),
        ({"type": "start_task", "request_id": "r", "prompt": "p", "repo_url": "u", "base_branch": "--x"}, "branch"),
    ],
)
def test_what_is_wrong_is_named(frame: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidFrameError) as refused:
        parse(json.dumps(frame))
    assert said in refused.value.message
    assert refused.value.request_id == frame.get("request_id")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"x"', "1", "{}" * 3, "[" * 100_000, '{"type":' * 50_000])
def test_what_is_no_frame_at_all(text: str) -> None:
    with pytest.raises(InvalidFrameError):
        parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["type", "request_id", "task_id", "text"]), inner)
        ),
    )
)
def test_any_json_is_parsed_or_refused(value: object) -> None:
    with pytest.raises(InvalidFrameError):
        parse(json.dumps(value))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"type": "x" * 500_000}, "xxx"),
        ({"type": "ping"} | {f"{n:x}": 1 for n in range(60_000)}, "60000 things are wrong"),
    ],
)
def test_what_is_said_of_a_bad_frame_is_short(frame: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFrameError) as refused:
        parse(json.dumps(frame))
    assert said in refused.value.message
    assert len(refused.value.message) < 1000


def test_a_start_task_asks_for_what_rest_asks_for() -> None:
    frame = parse('{"type":"start_task","request_id":"r","prompt":"p","repo_url":"u","budget_usd":1.5}')
    assert isinstance(frame, StartTask)
    assert frame.request().model_dump(mode="json", exclude_none=True) == {
        "repo_url": "u",
        "prompt": "p",
        "budget_usd": "1.5",
    }


def test_after_is_0_unless_said() -> None:
    frame = parse(json.dumps({"type": "subscribe", "task_id": TASK}))
    assert isinstance(frame, Subscribe)
    assert frame.after == 0
