"""What clients see of a task, and the reads behind it. Every read is scoped to its user."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, tuple_

from agent_runtime.protocol import call_id
from infra.tables import Message, ModelCall, Patch, Task, ToolCall
from infra.tasks.log import TaskRow, rfc3339
from infra.tasks.states import OPEN


def branch_name(task_id: UUID) -> str:
    """The one branch that a worker pushes for a task (G8)."""
    return f"farhand/{task_id}"


def task_json(row: TaskRow) -> dict[str, Any]:
    """The wire form of a task (design section 9)."""
    return {
        "id": str(row.id),
        "project_id": str(row.project_id),
        "repo_url": row.repo_url,
        "prompt": row.prompt,
        "status": row.status,
        "model": row.model,
        "base_branch": row.base_branch,
        "branch": branch_name(row.id),
        "head_sha": row.head_sha,
        "attempt": row.attempt,
        "last_seq": row.last_seq,
        "budget_usd": float(row.budget_usd),
        "spent_usd": float(row.spent_usd),
        "final_message": row.final_message,
        "pull_request": row.pull_request,
        "pull_request_requested_at": row.pull_request_requested_at and rfc3339(row.pull_request_requested_at),
        "error": row.error,
        "created_at": rfc3339(row.created_at),
        "started_at": row.started_at and rfc3339(row.started_at),
        "completed_at": row.completed_at and rfc3339(row.completed_at),
    }


def get_task(connection: Connection, task_id: UUID, *, user_id: UUID) -> TaskRow | None:
    return connection.execute(
        select(*Task.__table__.c).where(Task.id == task_id, Task.user_id == user_id)
    ).one_or_none()


def list_tasks(
    connection: Connection, *, user_id: UUID, before: UUID | None, limit: int, status: str | None = None
) -> list[TaskRow]:
    """Newest first; `before` is the id that the last page ended with."""
    query = select(*Task.__table__.c).where(Task.user_id == user_id).order_by(Task.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Task.id < before)
    if status is not None:
        query = query.where(Task.status == status)
    return list(connection.execute(query))


def open_tasks(connection: Connection, *, user_id: UUID) -> list[TaskRow]:
    """All tasks of a user that have not ended, oldest first: what the feed starts with."""
    return list(
        connection.execute(
            select(*Task.__table__.c).where(Task.user_id == user_id, Task.status.in_(OPEN)).order_by(Task.id)
        )
    )


def list_messages(connection: Connection, task_id: UUID, *, after: UUID | None, limit: int) -> list[dict[str, Any]]:
    """The conversation as text, oldest first. The caller has checked whose task it is, here and below."""
    query = select(*Message.__table__.c).where(Message.task_id == task_id).order_by(Message.id).limit(limit)
    if after is not None:
        query = query.where(Message.id > after)
    return [
        {
            "id": str(row.id),
            "role": row.role,
            "text": row.text,
            "step": row.step,
            "created_at": rfc3339(row.created_at),
        }
        for row in connection.execute(query)
    ]


def list_tool_calls(
    connection: Connection, task_id: UUID, *, after: tuple[int, int] | None, limit: int
) -> list[dict[str, Any]]:
    """Tool calls in order; `after` is the (step, index) that the last page ended with."""
    query = select(*ToolCall.__table__.c).where(ToolCall.task_id == task_id)
    if after is not None:
        query = query.where(tuple_(ToolCall.step, ToolCall.index) > after)
    rows = connection.execute(query.order_by(ToolCall.step, ToolCall.index).limit(limit)).mappings()
    return [
        {
            "call_id": call_id(row["step"], row["index"]),
            "step": row["step"],
            "index": row["index"],
            "tool_name": row["tool_name"],
            "input": row["input"],
            "output": row["output"],
            "is_error": row["is_error"],
            "truncated": row["truncated"],
            "duration_ms": row["duration_ms"],
            "tree": row["tree"],
            "created_at": rfc3339(row["created_at"]),
            "finished_at": row["finished_at"] and rfc3339(row["finished_at"]),
        }
        for row in rows
    ]


def get_patch(connection: Connection, task_id: UUID) -> Row[Any] | None:
    return connection.execute(select(*Patch.__table__.c).where(Patch.task_id == task_id)).one_or_none()


def usage_by_day(connection: Connection, *, user_id: UUID, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Calls, tokens and money of each UTC day and model, newest day first. Calls in the air are not in it."""
    day = func.date(ModelCall.started_at)
    tokens = {
        name: func.coalesce(func.sum(ModelCall.usage[name].as_integer()), 0).label(name)
        for name in ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    }
    query = (
        select(
            day.label("day"),
            ModelCall.model,
            func.count().label("calls"),
            *tokens.values(),
            func.coalesce(func.sum(ModelCall.cost_usd), 0).label("cost_usd"),
        )
        .join(Task, Task.id == ModelCall.task_id)
        .where(Task.user_id == user_id, ModelCall.started_at >= since, ModelCall.started_at < until)
        .where(ModelCall.state.in_(("settled", "lost")))
        .group_by(day, ModelCall.model)
        .order_by(day.desc(), ModelCall.model)
    )
    return [
        {**row, "day": row["day"].isoformat(), "cost_usd": float(row["cost_usd"])}
        for row in connection.execute(query).mappings()
    ]


def count_pending(connection: Connection) -> int:
    """Tasks of all users that wait for a worker, for the deployment's metrics."""
    return connection.execute(select(func.count()).where(Task.status == "pending")).scalar_one()
