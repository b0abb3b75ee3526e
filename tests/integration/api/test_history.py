"""What a task recorded, as the API shows it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from infra.errors import AuthorityLostError
from infra.ids import new_id
from infra.services import Services
from infra.tables import ModelCall, Patch
from infra.tasks import records, transitions
from infra.tasks.egress import EgressRecord, record_egress
from infra.tasks.records import NewStep
from infra.tasks.transitions import Lease
from tests.integration.api.conftest import Person

DIFF = b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+\xff\n"
RESPONSE = {
    "content": [{"type": "tool_use", "id": "t1", "name": "read_file", "input": {"path": "f"}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 1, "output_tokens": 2},
}


def record(services: Services, lease: Lease, steps: int) -> None:
    """`steps` steps of two tool calls each, the last of which has no result."""
    for step in range(1, steps + 1):
        turn = {"role": "user", "content": f"turn {step}"}
        response = {**RESPONSE, "id": "msg_1", "model": "m"}
        with services.tasks.transaction() as tx:
            records.record_step(tx, lease, NewStep(step, turn, response, f"text {step}", (), ()))
            calls = [{"index": i, "tool_use_id": f"t{i}", "tool": "read_file", "args": {"path": "f"}} for i in (0, 1)]
            records.record_calls(tx, lease, {"step": step, "calls": calls})  # type: ignore[typeddict-item]
            result: dict[str, Any] = {"step": step, "index": 0, "output": "text", "is_error": False, "truncated": False}
            result |= {"duration_ms": 5, "tree": None, "parent": None, "left_out": []}
            records.record_result(tx, lease, result, b"", limit=0)  # type: ignore[arg-type]


@pytest.fixture
def task(ada: Person, services: Services) -> dict[str, Any]:
    """Ended after two recorded steps."""
    lease = ada.claimed(task := ada.task())
    record(services, lease, 2)
    ada.post(f"/v1/tasks/{task['id']}/cancel")
    with services.tasks.transaction() as tx:
        assert transitions.confirm_cancelled(tx, lease, confirmed_dead_ms=7)
    return task


def pages(ada: Person, path: str, limit: int, parameter: str) -> list[Any]:
    """All items, read page by page; proves that only the last page has no `next`."""
    items: list[Any] = []
    cursor: str | None = None
    while True:
        query = {"limit": limit, **({parameter: cursor} if cursor else {})}
        page = ada.get(path, query_string=query)
        assert page["next"] is None or len(page["items"]) == limit
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            return items


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_events_come_whole_and_in_order_whatever_the_page(ada: Person, task: dict[str, Any], limit: int) -> None:
    events = pages(ada, f"/v1/tasks/{task['id']}/events", limit, "after")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = ["task_created", "task_started", *["tool_call", "tool_call", "tool_result"] * 2, "cancelled"]
    assert [event["type"] for event in events] == kinds
    assert events[-1]["data"] == {"by": "user", "confirmed_dead_ms": 7}


def test_events_after_a_seq(ada: Person, task: dict[str, Any]) -> None:
    path = f"/v1/tasks/{task['id']}/events"
    assert [event["seq"] for event in ada.get(f"{path}?after=3&limit=2")["items"]] == [4, 5]
    assert ada.get(f"{path}?after=3&limit=2")["next"] == "5"
    assert ada.get(f"{path}?after=999") == {"items": [], "next": None}


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_messages_and_tool_calls_come_in_order_whatever_the_page(ada: Person, task: dict[str, Any], limit: int) -> None:
    messages = pages(ada, f"/v1/tasks/{task['id']}/messages", limit, "cursor")
    assert [(m["role"], m["text"], m["step"]) for m in messages] == [
        ("user", "do it", None),
        ("assistant", "text 1", 1),
        ("assistant", "text 2", 2),
    ]
    calls = pages(ada, f"/v1/tasks/{task['id']}/tool-calls", limit, "cursor")
    assert [call["call_id"] for call in calls] == ["1.0", "1.1", "2.0", "2.1"]
    assert calls[0]["tool_name"] == "read_file"
    assert calls[0]["input"] == {"path": "f"}
    assert (calls[0]["output"], calls[0]["is_error"], calls[0]["duration_ms"]) == ("text", False, 5)
    assert (calls[1]["output"], calls[1]["is_error"], calls[1]["finished_at"]) == (None, None, None)


def test_a_recording_holds_what_a_replay_needs_and_nothing_else(ada: Person, task: dict[str, Any]) -> None:
    response = ada("GET", f"/v1/tasks/{task['id']}/recording")
    assert response.headers["Content-Disposition"] == f'attachment; filename="{task["id"]}.json"'
    assert response.json == {
        "version": 1,
        "model": "replay:demo",
        "prompt": "do it",
        "steps": [{"user_turn": {"role": "user", "content": f"turn {n}"}, "response": RESPONSE} for n in (1, 2)],
    }


def test_there_is_no_recording_of_an_open_task_or_one_without_steps(ada: Person) -> None:
    assert ada.get(f"/v1/tasks/{ada.task()['id']}/recording", 409)["code"] == "task_not_ended"
    assert ada.get(f"/v1/tasks/{ada.ended_task()['id']}/recording", 404)["code"] == "no_recording"


def test_the_diff_comes_as_text_and_as_json(ada: Person, task: dict[str, Any], services: Services) -> None:
    patch = {"task_id": UUID(task["id"]), "base_sha": "b" * 40, "tree": "t" * 40, "diff": DIFF}
    with services.database.begin() as connection:
        connection.execute(insert(Patch).values(**patch, files_changed=1, insertions=2, deletions=3))
    path = f"/v1/tasks/{task['id']}/diff"
    for accept in ("*/*", "text/x-diff", "text/x-diff, application/json", "text/html"):
        text = ada("GET", path, headers={"Accept": accept})
        assert text.get_data() == DIFF
        assert text.mimetype == "text/x-diff"
    told = ada.get(path, headers={"Accept": "application/json"})
    assert told == {
        "diff": DIFF.decode(errors="replace"),
        "files_changed": 1,
        "insertions": 2,
        "deletions": 3,
        "base_sha": "b" * 40,
        "head_sha": None,
    }


def test_a_task_without_a_diff(ada: Person) -> None:
    assert ada.get(f"/v1/tasks/{ada.task()['id']}/diff", 404)["code"] == "no_diff_yet"
    ended = f"/v1/tasks/{ada.ended_task()['id']}/diff"
    empty = ada("GET", ended)
    assert (empty.status_code, empty.get_data(), empty.mimetype) == (200, b"", "text/x-diff")
    assert ada.get(ended, headers={"Accept": "application/json"})["diff"] == ""


def test_usage_adds_up_calls_of_a_day_and_model(ada: Person, bob: Person, services: Services) -> None:
    mine, other = UUID(ada.task()["id"]), UUID(bob.task()["id"])
    usage = {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 5}
    rows = [
        (mine, 1, "m1", "settled", "0.25", usage, "2026-01-02T23:59:59Z"),
        (mine, 2, "m1", "lost", "0.5", None, "2026-01-02T00:00:00Z"),
        (mine, 3, "m2", "settled", "1", usage, "2026-01-02T12:00:00Z"),
        (mine, 4, "m1", "released", None, None, "2026-01-02T12:00:00Z"),
        (mine, 5, "m1", "settled", "2", usage, "2026-01-03T00:00:00Z"),
        (other, 1, "m1", "settled", "8", usage, "2026-01-02T12:00:00Z"),
    ]
    with services.database.begin() as connection:
        for task, step, model, state, cost, tokens, at in rows:
            values = {"id": new_id(), "task_id": task, "attempt": 1, "step": step, "try_": 1, "model": model}
            values |= {"state": state, "cost_usd": cost and Decimal(cost), "usage": tokens, "started_at": at}
            connection.execute(insert(ModelCall).values(reserved_usd=Decimal(9), **values))
    told = ada.get("/v1/usage?since=2026-01-02&until=2026-01-02")
    assert [(item["day"], item["model"], item["calls"], item["cost_usd"]) for item in told["items"]] == [
        ("2026-01-02", "m1", 2, 0.75),
        ("2026-01-02", "m2", 1, 1.0),
    ]
    assert (told["cost_usd"], told["next"]) == (1.75, None)
    assert told["items"][0]["input_tokens"] == 10
    assert told["items"][0]["cache_creation_input_tokens"] == 0
    both = ada.get("/v1/usage?since=2026-01-01&until=2026-01-31")
    assert both["items"][0]["day"] == "2026-01-03"
    assert ada.get("/v1/usage")["items"] == []


@pytest.mark.parametrize(
    "query",
    ["since=2026-01-02&until=2026-01-01", "since=1999-01-01&until=2026-01-01", "until=9999-12-31", "since=yesterday"],
)
def test_usage_of_an_impossible_span(ada: Person, query: str) -> None:
    assert ada.get(f"/v1/usage?{query}", 422)["code"] == "invalid_input"


def test_a_page_of_large_events_ends_before_its_limit(ada: Person, services: Services) -> None:
    """Whole megabytes of output may stand in each event: a page holds 4 MB, not a thousand of them."""
    lease = ada.claimed(task := ada.task())
    with services.tasks.transaction() as tx:
        records.append_event(tx, lease, *[("build_progress", {"stage": "x" * 2**20, "percent": 1})] * 10)
    path = f"/v1/tasks/{task['id']}/events"

    found = [ada.get(f"{path}?limit=1000")]
    while after := found[-1]["next"]:
        found.append(ada.get(f"{path}?limit=1000&after={after}"))

    seqs = [[event["seq"] for event in page["items"]] for page in found]
    assert seqs == [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11], [12]]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_egress_comes_in_order_whatever_the_page(ada: Person, services: Services, limit: int) -> None:
    lease = ada.claimed(task := ada.task())
    first = EgressRecord(host="a.example", port=443, method="CONNECT", decision="allowed", address="93.184.216.34")
    ended = replace(first, reason="done", bytes_up=10, bytes_down=2**40, ended_at=first.started_at)
    more = EgressRecord(
        host="",
        port=0,
        method="",
        decision="refused",
        reason="more_not_recorded",
        connections=7,
        ended_at=first.started_at,
    )
    with services.tasks.transaction() as tx:
        record_egress(tx, lease, [first, more])
    with services.tasks.transaction() as tx:
        record_egress(tx, lease, [ended])
    items = pages(ada, f"/v1/tasks/{task['id']}/egress", limit, "cursor")
    assert [item["id"] for item in items] == [str(first.id), str(more.id)]
    assert (items[0]["host"], items[0]["port"], items[0]["method"]) == ("a.example", 443, "CONNECT")
    assert (items[0]["reason"], items[0]["bytes_up"], items[0]["bytes_down"]) == ("done", 10, 2**40)
    assert items[0]["started_at"] == items[0]["ended_at"]
    assert (items[1]["decision"], items[1]["connections"]) == ("refused", 7)


def test_egress_is_recorded_under_the_lease_only(ada: Person, services: Services) -> None:
    lease = ada.claimed(task := ada.task())
    record = EgressRecord(host="a.example", port=443, method="CONNECT", decision="allowed")
    with pytest.raises(AuthorityLostError), services.tasks.transaction() as tx:
        record_egress(tx, replace(lease, token=new_id()), [record])
    assert ada.get(f"/v1/tasks/{task['id']}/egress")["items"] == []
    # A record of another task is not changed by its id.
    with services.tasks.transaction() as tx:
        record_egress(tx, lease, [record])
    other = ada.claimed(ada.task())
    with services.tasks.transaction() as tx:
        record_egress(tx, other, [replace(record, reason="forged")])
    (item,) = ada.get(f"/v1/tasks/{task['id']}/egress")["items"]
    assert item["reason"] is None
