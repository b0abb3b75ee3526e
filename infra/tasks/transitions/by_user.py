"""The transitions that a user makes through the API, guarded by the user's id, too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, insert, select, text
from sqlalchemy import delete as delete_from

from infra import limits
from infra.errors import ConflictError, NotFoundError
from infra.ids import new_id
from infra.projects import default_name
from infra.tables import Message, Task
from infra.tasks.log import Event, TaskRow, Transaction
from infra.tasks.states import OPEN, TERMINAL, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """`project_id` names the project; None takes the user's project of `repo_url`, or makes one.

    `user_limit` is FARHAND_MAX_CONCURRENT_TASKS.
    """

    user_id: UUID
    project_id: UUID | None
    repo_url: str
    prompt: str
    agent: str
    model: str
    base_branch: str | None
    budget_usd: Decimal
    user_limit: int


_COLUMNS = ", ".join(Task.__table__.c.keys())

# All in one statement, so in one round trip and without BEGIN and COMMIT: this is on the way of every POST /v1/tasks.
# The lock keeps a project from being deleted until the task stands beside it. Beyond what its user may run at a time no
# wake-up is sent, and `enqueued_at` stays null: infra.tasks.turns has the rest.
_CREATE = """
with found as (
    select id, repo_url from projects where user_id = :user_id and {which} for key share
), made as (
    insert into projects (id, user_id, repo_url, name)
    select :made_id, :user_id, :repo_url, :name
    where cast(:project_id as uuid) is null and not exists (select from found)
    on conflict (user_id, repo_url) do nothing
    returning id, repo_url
), project as (
    select id, repo_url from found union all select id, repo_url from made
), task as (
    insert into tasks (id, user_id, project_id, repo_url, prompt, agent, model, base_branch, budget_usd,
                       unread, last_seq, enqueued_at)
    select :id, :user_id, project.id, project.repo_url, :prompt, :agent, :model, :base_branch, :budget_usd, 1, 1,
        case when not exists (
            select from tasks other where other.user_id = :user_id and other.status in ('pending', 'running')
            offset (select greatest({limit}, 1) - 1 from users where users.id = :user_id)
        ) then now() end
    from project
    returning *
), event as (
    insert into events (task_id, seq, type, data)
    select id, 1, 'task_created', cast(:event as jsonb) || jsonb_build_object('repo_url', repo_url) from task
), message as (
    insert into messages (id, task_id, role, text) select :message_id, id, 'user', prompt from task
)
select {columns} from task
"""
_PARTS = {"columns": _COLUMNS, "limit": limits.OF_USER}
_CREATE_IN_PROJECT = text(_CREATE.format(which="id = :project_id", **_PARTS)).columns(*Task.__table__.c)
_CREATE_ON_REPO = text(_CREATE.format(which="repo_url = :repo_url", **_PARTS)).columns(*Task.__table__.c)


def create(tx: Transaction, new: NewTask) -> TaskRow:
    """Store a pending task with event 1. Its prompt is the first message of the conversation.

    Its wake-up is to be sent if `enqueued_at` is set.

    One statement, so `tx` may be a single-statement one. Raises NotFoundError: the user has no such project.
    """
    event = {"prompt": new.prompt, "model": new.model, "budget_usd": float(new.budget_usd)}
    values = {name: getattr(new, name) for name in NewTask.__slots__}
    made = {
        "id": new_id(),
        "made_id": new_id(),
        "message_id": new_id(),
        "name": default_name(new.repo_url),
        "event": json.dumps(event),
    }
    statement = _CREATE_ON_REPO if new.project_id is None else _CREATE_IN_PROJECT
    row = tx.connection.execute(statement, values | made).one_or_none()
    if row is None and new.project_id is not None:
        raise NotFoundError("there is no such project")
    if row is None:
        # Somebody made the same project after this statement began, and has committed by now: it will be found.
        return create(tx, new)
    created = event | {"repo_url": row.repo_url}
    tx.events.append(Event(row.id, row.user_id, 1, "task_created", created, row.created_at))
    return row


def request_cancel(tx: Transaction, task_id: UUID, *, user_id: UUID) -> TaskRow:
    """Cancel at once what nobody runs; ask the worker of a running task to (it ends in `cancelled`).

    Returns the row as it is now; a task that has ended already is returned unchanged.
    """
    mine = (Task.id == task_id, Task.user_id == user_id)
    row = tx.advance(
        (*mine, Task.status.in_((Status.PENDING, Status.WAITING))),
        ("cancelled", {"by": "user", "confirmed_dead_ms": 0}),
        values={"status": Status.CANCELLED, "completed_at": func.now(), "error": None},
    )
    if row is None:
        row = tx.advance(
            (*mine, Task.status == Status.RUNNING),
            values={
                "cancel_requested_at": func.coalesce(Task.cancel_requested_at, func.now()),
                "cancel_requested_by": "user",
            },
        )
    if row is not None:
        return row
    row = _get(tx, mine)
    # Still open: it changed between the two, as by a hand-over. A cancel must not fall through.
    return request_cancel(tx, task_id, user_id=user_id) if row.status in OPEN else row


def add_message(tx: Transaction, task_id: UUID, text: str, *, user_id: UUID) -> TaskRow:
    """Store a user's message. A running task reads it before its next model call; an ended one wakes up.

    Raises:
        ConflictError: `task_cancelling`, the task is being cancelled right now.
    """
    message = new_id()
    event = ("message", {"message_id": str(message), "role": "user", "text": text, "stop_reason": None})
    mine = (Task.id == task_id, Task.user_id == user_id)
    unread = {"unread": Task.unread + 1}
    row = tx.advance(
        (*mine, Task.status.in_(OPEN), Task.cancel_requested_at.is_(None)), event, values=unread
    ) or tx.advance((*mine, Task.status.in_(TERMINAL)), event, values=unread | _reopened())
    if row is None:
        _get(tx, mine)
        raise ConflictError("the task is being cancelled", hint="Send the message once it is.", code="task_cancelling")
    tx.connection.execute(insert(Message).values(id=message, task_id=task_id, role="user", text=text))
    return row


def retry(tx: Transaction, task_id: UUID, *, user_id: UUID, budget_usd: Decimal | None) -> TaskRow:
    """Make an ended task pending again; it goes on from its last recorded step.

    Raises:
        ConflictError: `task_not_ended`.
    """
    mine = (Task.id == task_id, Task.user_id == user_id)
    budget = {} if budget_usd is None else {"budget_usd": budget_usd}
    row = tx.advance((*mine, Task.status.in_(TERMINAL)), values=_reopened() | budget)
    if row is None:
        found = _get(tx, mine)
        raise ConflictError(
            f"the task is {found.status}", hint="Only an ended task can be retried.", code="task_not_ended"
        )
    return row


def delete(tx: Transaction, task_id: UUID, *, user_id: UUID) -> None:
    """Forget an ended task and all that it recorded. Raises NotFoundError; ConflictError (`task_not_ended`)."""
    mine = (Task.id == task_id, Task.user_id == user_id)
    if not tx.connection.execute(delete_from(Task).where(*mine, Task.status.in_(TERMINAL))).rowcount:
        found = _get(tx, mine)
        raise ConflictError(f"the task is {found.status}", hint="Cancel it first.", code="task_not_ended")


def _reopened() -> dict[str, Any]:
    return {
        "status": Status.PENDING,
        "error": None,
        "final_message": None,
        "completed_at": None,
        "cancel_requested_at": None,
        "cancel_requested_by": None,
        "not_before": None,
        "deaths": 0,
        "enqueued_at": func.now(),
    }


def _get(tx: Transaction, where: tuple[ColumnElement[bool], ...]) -> TaskRow:
    row = tx.connection.execute(select(*Task.__table__.c).where(*where)).one_or_none()
    if row is None:
        raise NotFoundError("there is no such task")
    return row
