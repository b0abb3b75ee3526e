"""Golden lines: one event of each type, as it travels. A change here is a change for clients that we don't see."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from agent_runtime.protocol import EVENT_FIELDS, TERMINAL_EVENTS, call_id, message_id
from infra.tasks.log import Event, rfc3339

GOLDEN = {
    "task_created": "prompt repo_url model budget_usd",
    "task_started": "attempt worker sandbox",
    "task_resumed": "attempt step reason",
    "thinking": "message_id text agent_type",
    "message": "message_id role text stop_reason",
    "tool_call": "call_id step tool args",
    "tool_result": "call_id output truncated is_error duration_ms tree",
    "build_progress": "stage percent",
    "usage": "step model input_tokens output_tokens cache_creation_input_tokens cache_read_input_tokens"
    " cost_usd spent_usd",
    "question": "question_id text options",
    "answer": "question_id text",
    "branch_pushed": "branch sha files_changed insertions deletions",
    "pull_request": "url number",
    "completed": "final_message",
    "failed": "error",
    "cancelled": "by confirmed_dead_ms",
    "error": "code message",
}


def test_every_type_has_its_golden_line() -> None:
    assert {name: " ".join(fields) for name, fields in EVENT_FIELDS.items()} == GOLDEN
    assert set(GOLDEN) >= TERMINAL_EVENTS


def test_the_envelope() -> None:
    task_id = UUID("01890000-0000-7000-8000-000000000001")
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    event = Event(task_id, UUID(int=1), 7, "completed", {"final_message": "done"}, at)
    assert json.dumps(event.as_json()) == (
        '{"v": 1, "task_id": "01890000-0000-7000-8000-000000000001", "seq": 7, "type": "completed",'
        ' "at": "2026-01-02T03:04:05.000678Z", "data": {"final_message": "done"}}'
    )


@pytest.mark.parametrize("offset", ["+00:00", "+05:30"])
def test_times_are_utc(offset: str) -> None:
    assert rfc3339(datetime.fromisoformat(f"2026-01-02T12:00:00{offset}")).endswith("Z")


def test_names_of_calls_and_messages() -> None:
    assert (call_id(3, 0), message_id(3, 2)) == ("3.0", "3.2")
