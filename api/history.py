"""Routes of what a task recorded: events, messages, tool calls, the diff, the recording. And what it all cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from uuid import UUID

from flask import Response, request
from pydantic import Field

from api import answers
from api.pages import PageQuery, Query, decode_id, decode_pair, encode, page
from api.routes import Call, Json, Reply, Routes
from api.tasks import own_task
from infra.errors import ConflictError, InvalidInputError, NotFoundError
from infra.tasks import egress, views
from infra.tasks.log import TaskRow, read_events
from infra.tasks.records import recorded_steps
from infra.tasks.states import OPEN

routes = Routes("tasks")
usage_routes = Routes("usage")

DIFF = "text/x-diff"
_USAGE_DAYS = 30
_MAX_USAGE_DAYS = 366


class EventQuery(Query):
    after: Annotated[int, Field(ge=0, le=2**62, description="The last `seq` that you have.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class UsageQuery(Query):
    since: Annotated[date | None, Field(description="First UTC day; default: 30 days ago.")] = None
    until: Annotated[date | None, Field(description="Last UTC day; default: today.")] = None


@routes.get("/v1/tasks/<uuid:task_id>/events", answer=answers.Page[answers.Event])
def list_events(call: Call, task_id: UUID, query: EventQuery) -> Json:
    """The events of a task with `seq > after`, in order. `next` is the `after` of the next page, null at the end.

    A page ends before `limit` when it has 4 MB.
    """
    own_task(call, task_id)
    with call.services.database.read() as connection:
        found = read_events(connection, task_id, after=query.after, limit=query.limit)
    return {"items": found.events, "next": str(found.events[-1]["seq"]) if found.more else None}


@routes.get("/v1/tasks/<uuid:task_id>/messages", answer=answers.Page[answers.Message])
def list_messages(call: Call, task_id: UUID, query: PageQuery) -> Json:
    """The conversation as text, oldest first."""
    own_task(call, task_id)
    after = decode_id(query.cursor)
    with call.services.database.read() as connection:
        messages = views.list_messages(connection, task_id, after=after, limit=query.limit + 1)
    return page(messages, query.limit, lambda item: encode(item["id"]))


@routes.get("/v1/tasks/<uuid:task_id>/tool-calls", answer=answers.Page[answers.ToolCall])
def list_tool_calls(call: Call, task_id: UUID, query: PageQuery) -> Json:
    """Every tool call with its input and output, oldest first."""
    own_task(call, task_id)
    after = decode_pair(query.cursor)
    with call.services.database.read() as connection:
        calls = views.list_tool_calls(connection, task_id, after=after, limit=query.limit + 1)
    return page(calls, query.limit, lambda item: encode(item["step"], item["index"]))


@routes.get("/v1/tasks/<uuid:task_id>/egress", answer=answers.Page[answers.EgressConnection])
def list_egress(call: Call, task_id: UUID, query: PageQuery) -> Json:
    """What its sandboxes connected to through the proxy, refusals included, oldest first."""
    own_task(call, task_id)
    after = decode_id(query.cursor)
    with call.services.database.read() as connection:
        items = egress.list_egress(connection, task_id, after=after, limit=query.limit + 1)
    return page(items, query.limit, lambda item: encode(item["id"]))


@routes.get("/v1/tasks/<uuid:task_id>/diff", answer=answers.Diff, media_types=("application/json", DIFF))
def get_diff(call: Call, task_id: UUID) -> Json | Response:
    """What the task changed so far, as a unified diff; as JSON when the Accept header asks for that."""
    task = own_task(call, task_id)
    with call.services.database.read() as connection:
        patch = views.get_patch(connection, task_id)
    if patch is None and task.status in OPEN:
        raise NotFoundError(
            "the task has no diff yet", hint="There is one when it ends, or pauses.", code="no_diff_yet"
        )
    if request.accept_mimetypes.best_match([DIFF, "application/json"], default=DIFF) == DIFF:
        return Response(patch.diff if patch else b"", content_type=f"{DIFF}; charset=utf-8")
    return {
        "diff": patch.diff.decode(errors="replace") if patch else "",
        "files_changed": patch.files_changed if patch else 0,
        "insertions": patch.insertions if patch else 0,
        "deletions": patch.deletions if patch else 0,
        "base_sha": patch.base_sha if patch else task.base_sha,
        "head_sha": task.head_sha,
    }


@routes.get("/v1/tasks/<uuid:task_id>/recording", answer=answers.Recording)
def get_recording(call: Call, task_id: UUID) -> Reply:
    """The model's responses of an ended task, to be played again as `model: replay:<name>`."""
    task = own_task(call, task_id)
    with call.services.database.read() as connection:
        steps = recorded_steps(connection, task_id)
    _check_recorded(task, steps)
    recording = {
        "version": 1,
        "model": task.model,
        "prompt": task.prompt,
        "steps": [
            {
                "user_turn": step["user_turn"],
                "response": {name: step["response"].get(name) for name in ("content", "stop_reason", "usage")},
            }
            for step in steps
        ],
    }
    return Reply(recording, {"Content-Disposition": f'attachment; filename="{task_id}.json"'})


@usage_routes.get("/v1/usage", answer=answers.Usage)
def get_usage(call: Call, query: UsageQuery) -> Json:
    """Calls, tokens and money of each UTC day and model, newest day first."""
    until = query.until or datetime.now(UTC).date()
    before = timedelta(days=_USAGE_DAYS - 1)
    since = query.since or (until - before if until - date.min > before else date.min)
    if not timedelta(0) <= until - since < timedelta(days=_MAX_USAGE_DAYS) or until.year > 9000:
        raise InvalidInputError(
            f"since, until: must be a span of 1 to {_MAX_USAGE_DAYS} days", hint="Ask for a shorter span."
        )
    with call.services.database.read() as connection:
        items = views.usage_by_day(
            connection, user_id=call.user_id, since=_midnight(since), until=_midnight(until + timedelta(days=1))
        )
    return {"items": items, "next": None, "cost_usd": round(sum(item["cost_usd"] for item in items), 6)}


def _check_recorded(task: TaskRow, steps: list[Any]) -> None:
    if task.status in OPEN:
        raise ConflictError(
            f"the task is {task.status}", hint="It can be downloaded when it has ended.", code="task_not_ended"
        )
    if not steps:
        raise NotFoundError(
            "the task ended before the model answered", hint="There is nothing to play again.", code="no_recording"
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
