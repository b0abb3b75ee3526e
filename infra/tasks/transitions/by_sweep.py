"""The transitions of tasks whose worker is gone, guarded by the token that it held.

A sweep makes the first two, once nothing has been heard of the worker for its ttl; an heir, who knows of the death by a
lock, makes the first and the last. Which worker is lost, and who its heir is, they decide: `infra.tasks.ownership`,
`infra.tasks.takeover`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select

from infra.tables import Attempt, Task
from infra.tasks.log import TaskRow, Transaction
from infra.tasks.states import Status
from infra.tasks.transitions.lease import MAX_DEATHS, POISONED, RELEASED, Lease, close_attempt, in_seconds

ADOPTED = "adopted"
"""The reason of a `task_resumed` whose sandbox has gone on."""

_CANCELLED = ("cancelled", {"by": "user", "confirmed_dead_ms": None})

Bereaved = Any
"""A row of a running task as it was read (id, attempt, lease_token, deaths, cancel_requested_at) with its worker's
`left_at`: null unless it announced that it goes."""


def take_back(tx: Transaction, task: Bereaved) -> TaskRow | None:
    """Requeue (or cancel, or fail as poison) a task whose worker is gone."""
    held = _lease_of(task).held
    deaths = task.deaths + _death(task)
    if task.cancel_requested_at is not None:
        row = tx.advance(held, _CANCELLED, values=_ended(Status.CANCELLED))
    elif deaths >= MAX_DEATHS:
        row = tx.advance(held, ("failed", {"error": POISONED}), values=_ended(Status.FAILED) | {"error": POISONED})
    else:
        row = tx.advance(
            held,
            values={
                "status": Status.PENDING,
                **RELEASED,
                "deaths": deaths,
                "not_before": None if _announced(task) or deaths == 1 else in_seconds(2.0**deaths),
                "enqueued_at": None,
            },
        )
    if row is not None:
        close_attempt(tx, task.id, task.attempt, _outcome(task))
    return row


def cancel_unowned(tx: Transaction) -> list[TaskRow]:
    """End pending tasks whose cancel was asked for while a worker held them."""
    rows = tx.connection.execute(
        select(Task.id).where(Task.status == Status.PENDING, Task.cancel_requested_at.is_not(None))
    ).scalars()
    ended = [
        tx.advance((Task.id == task_id, Task.status == Status.PENDING), _CANCELLED, values=_ended(Status.CANCELLED))
        for task_id in rows.all()
    ]
    return [row for row in ended if row is not None]


def adopt(tx: Transaction, task: Bereaved, heir: UUID, *, sandbox_id: str, sandbox_kind: str) -> tuple[Lease, TaskRow]:
    """Running it stays, as attempt n+1 of the heir's in the same sandbox. The caller has locked the row."""
    close_attempt(tx, task.id, task.attempt, _outcome(task))
    token = uuid4()
    row = tx.advance(
        _lease_of(task).held,
        ("task_resumed", lambda row: {"attempt": row.attempt, "step": row.last_step, "reason": ADOPTED}),
        values={
            "attempt": Task.attempt + 1,
            "lease_token": token,
            "worker_id": heir,
            "deaths": Task.deaths + _death(task),
        },
    )
    assert row is not None  # it is locked  # noqa: S101
    tx.connection.execute(
        insert(Attempt).values(
            task_id=task.id, number=row.attempt, worker_id=heir, sandbox_id=sandbox_id, sandbox_kind=sandbox_kind
        )
    )
    return Lease(task.id, token, row.attempt), row


def _lease_of(task: Bereaved) -> Lease:
    return Lease(task.id, task.lease_token, task.attempt)


def _announced(task: Bereaved) -> bool:
    return task.left_at is not None


def _death(task: Bereaved) -> int:
    return 0 if _announced(task) else 1


def _outcome(task: Bereaved) -> str:
    return "handed_over" if _announced(task) else "worker_lost"


def _ended(status: Status) -> dict[str, Any]:
    return {"status": status, "completed_at": func.now(), "cancel_requested_at": None, **RELEASED}
