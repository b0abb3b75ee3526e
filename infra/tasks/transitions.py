"""Every change of a task's status. Each is one statement, guarded by the state that it expects and, when a worker
makes it, by the lease token; it appends its event in the same transaction.

A function that returns None (or False) changed nothing: somebody else was first, and that is not an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, insert, or_, select, text, update
from sqlalchemy import delete as delete_from
from sqlalchemy.orm import aliased

from agent_runtime.protocol import Failure
from infra.errors import AuthorityLostError, ConflictError, NotFoundError
from infra.ids import new_id
from infra.projects import default_name
from infra.tables import Attempt, Message, ModelCall, Task, User, Worker
from infra.tasks.log import Draft, Event, TaskRow, Transaction
from infra.tasks.states import OPEN, TERMINAL, Status

_RELEASED: dict[str, Any] = {"lease_token": None, "worker_id": None}


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's authority over a task: valid as long as the token stands in the row."""

    task_id: UUID
    token: UUID
    attempt: int

    @property
    def held(self) -> tuple[ColumnElement[bool], ...]:
        """The guard of every write of a worker."""
        return (Task.id == self.task_id, Task.lease_token == self.token)


# ---- by the user, through the API -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """`project_id` names the project; None takes the user's project of `repo_url`, or makes one."""

    user_id: UUID
    project_id: UUID | None
    repo_url: str
    prompt: str
    agent: str
    model: str
    base_branch: str | None
    budget_usd: Decimal


_COLUMNS = ", ".join(Task.__table__.c.keys())

# All in one statement, so in one round trip and without BEGIN and COMMIT: this is on the way of every POST /v1/tasks.
# The lock keeps a project from being deleted until the task stands beside it.
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
    select :id, :user_id, project.id, project.repo_url, :prompt, :agent, :model, :base_branch, :budget_usd, 1, 1, now()
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
_CREATE_IN_PROJECT = text(_CREATE.format(which="id = :project_id", columns=_COLUMNS)).columns(*Task.__table__.c)
_CREATE_ON_REPO = text(_CREATE.format(which="repo_url = :repo_url", columns=_COLUMNS)).columns(*Task.__table__.c)


def create(tx: Transaction, new: NewTask) -> TaskRow:
    """Store a pending task with event 1. Its prompt is the first message of the conversation.

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


# ---- by a worker ----------------------------------------------------------------------------------------------


def claim(
    tx: Transaction, task_id: UUID, *, worker_id: UUID, worker_name: str, sandbox: str, user_limit: int
) -> tuple[Lease, TaskRow] | None:
    """Take a pending task: attempt n+1 with a fresh token.

    None when it is not pending, rests until later, or its user has `user_limit` running tasks already (their own
    limit, if set, replaces it).
    """
    token = uuid4()
    other = aliased(Task)
    running = select(func.count()).where(other.user_id == Task.user_id, other.status == Status.RUNNING)
    limit = select(func.coalesce(User.max_concurrent_tasks, user_limit)).where(User.id == Task.user_id)
    alive = select(Worker.id).where(Worker.id == worker_id, Worker.swept_at.is_(None)).exists()
    reason = _resume_reason(tx, task_id)
    row = tx.advance(
        (
            Task.id == task_id,
            Task.status == Status.PENDING,
            Task.cancel_requested_at.is_(None),
            or_(Task.not_before.is_(None), Task.not_before <= func.now()),
            running.scalar_subquery() < limit.scalar_subquery(),
            alive,
        ),
        (
            ("task_started", lambda row: {"attempt": row.attempt, "worker": worker_name, "sandbox": sandbox})
            if reason is None
            else (
                "task_resumed",
                lambda row: {"attempt": row.attempt, "step": row.last_step, "reason": reason},
            )
        ),
        values={
            "status": Status.RUNNING,
            "attempt": Task.attempt + 1,
            "lease_token": token,
            "worker_id": worker_id,
            "started_at": func.coalesce(Task.started_at, func.now()),
        },
    )
    if row is None:
        return None
    tx.connection.execute(
        insert(Attempt).values(task_id=task_id, number=row.attempt, worker_id=worker_id, sandbox_kind=sandbox)
    )
    return Lease(task_id, token, row.attempt), row


def hold(tx: Transaction, lease: Lease) -> TaskRow:
    """Lock the row for this transaction and prove the lease. Raises AuthorityLostError."""
    row = tx.connection.execute(
        select(*Task.__table__.c).where(*lease.held).with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        raise AuthorityLostError(f"attempt {lease.attempt} of task {lease.task_id} no longer owns it")
    return row


def complete(tx: Transaction, lease: Lease, final_message: str) -> bool:
    """End a task by its agent's word. False while there is a user message that no step contains."""
    return _end(
        tx,
        lease,
        "completed",
        ("completed", {"final_message": final_message}),
        {"status": Status.COMPLETED, "final_message": final_message, "error": None},
        Task.unread == 0,
    )


def fail(tx: Transaction, lease: Lease, error: Failure) -> bool:
    return _end(tx, lease, "failed", ("failed", {"error": error}), {"status": Status.FAILED, "error": error})


def confirm_cancelled(tx: Transaction, lease: Lease, *, confirmed_dead_ms: int | None) -> bool:
    """The sandbox of a task whose user cancelled it is dead, `confirmed_dead_ms` after the request."""
    return _end(
        tx,
        lease,
        "cancelled",
        (
            "cancelled",
            lambda row: {"by": row.cancel_requested_by or "user", "confirmed_dead_ms": confirmed_dead_ms},
        ),
        {"status": Status.CANCELLED, "error": None},
    )


def hand_over(tx: Transaction, lease: Lease, outcome: str, *events: Draft, rest: float = 0.0) -> bool:
    """Give a running task back: it is claimable at once, or in `rest` seconds. Nobody is to blame for it.

    Its wake-up counts as not sent: the one that the worker sends as it leaves may reach that very worker.
    """
    row = tx.advance(
        lease.held,
        *events,
        values={
            "status": Status.PENDING,
            "enqueued_at": None,
            "not_before": in_seconds(rest) if rest else None,
            **_RELEASED,
        },
    )
    return row is not None and close_attempt(tx, lease.task_id, lease.attempt, outcome)


def give_back_after_death(tx: Transaction, lease: Lease, *, limit: int, error: Failure) -> bool:
    """The sandbox died by itself. Count it: rest longer each time, fail with `error` after `limit` without a step."""
    deaths = hold(tx, lease).deaths + 1
    if deaths >= limit:
        return fail(tx, lease, error)
    row = tx.advance(
        lease.held,
        values={
            "status": Status.PENDING,
            "deaths": deaths,
            "not_before": in_seconds(2.0**deaths),
            "enqueued_at": None,  # the sweep sends its wake-up when it has rested
            **_RELEASED,
        },
    )
    return row is not None and close_attempt(tx, lease.task_id, lease.attempt, "sandbox_died")


def _end(
    tx: Transaction,
    lease: Lease,
    outcome: str,
    event: Any,
    values: dict[str, Any],
    *more: ColumnElement[bool],
) -> bool:
    row = tx.advance(
        (*lease.held, *more),
        event,
        values={
            **values,
            **_RELEASED,
            "completed_at": func.now(),
            "cancel_requested_at": None,
            "deaths": 0,
        },
    )
    return row is not None and close_attempt(tx, lease.task_id, lease.attempt, outcome)


def close_attempt(tx: Transaction, task_id: UUID, attempt: int, outcome: str) -> bool:
    """An attempt has ended. What it left in the air of model calls counts as spent."""
    tx.connection.execute(
        update(Attempt)
        .where(Attempt.task_id == task_id, Attempt.number == attempt, Attempt.ended_at.is_(None))
        .values(ended_at=func.now(), outcome=outcome)
    )
    _count_lost_calls(tx, task_id)
    return True


def in_seconds(seconds: float) -> Any:
    """A moment from now, in database time."""
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _resume_reason(tx: Transaction, task_id: UUID) -> str | None:
    """How the last attempt ended; None for the first one."""
    outcome: str | None = tx.connection.execute(
        select(func.coalesce(Attempt.outcome, "worker_lost"))
        .where(Attempt.task_id == task_id)
        .order_by(Attempt.number.desc())
        .limit(1)
    ).scalar_one_or_none()
    return outcome


def _count_lost_calls(tx: Transaction, task_id: UUID) -> None:
    lost = tx.connection.execute(
        update(ModelCall)
        .where(ModelCall.task_id == task_id, ModelCall.state == "reserved")
        .values(state="lost", cost_usd=ModelCall.reserved_usd, ended_at=func.now())
        .returning(ModelCall.reserved_usd)
    ).scalars()
    total = sum(lost, Decimal(0))
    if total:
        tx.advance(
            (Task.id == task_id,),
            values={"spent_usd": Task.spent_usd + total, "reserved_usd": Task.reserved_usd - total},
        )
