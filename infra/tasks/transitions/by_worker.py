"""The transitions that a worker makes. All but the claim, which makes the lease, are guarded by its token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, insert, or_, select

from agent_runtime.protocol import Failure
from infra import limits
from infra.tables import Attempt, Step, Task, Worker
from infra.tasks.log import Draft, TaskRow, Transaction
from infra.tasks.states import Status
from infra.tasks.transitions.lease import MAX_DEATHS, RELEASED, Lease, close_attempt, hold, in_seconds

OUTAGE = "outage"
"""The outcome of an attempt that could not go on because something was away."""
OUTAGE_REST_S = (5.0, 60.0)
"""How long a task rests then, at first and at most."""


def claim(
    tx: Transaction, task_id: UUID, *, worker_id: UUID, worker_name: str, sandbox: str, user_limit: int
) -> tuple[Lease, TaskRow] | None:
    """Take a pending task: attempt n+1 with a fresh token.

    None when it is not pending, rests until later, or a limit on running tasks leaves no room (`infra.limits`;
    `user_limit` is that of a user for whom nobody set one). However many claims race, none of them passes a limit.
    """
    limits.hold(tx.connection, task_id)
    token = uuid4()
    alive = select(Worker.id).where(Worker.id == worker_id, Worker.swept_at.is_(None)).exists()
    reason = _resume_reason(tx, task_id)
    row = tx.advance(
        (
            Task.id == task_id,
            Task.status == Status.PENDING,
            Task.cancel_requested_at.is_(None),
            or_(Task.not_before.is_(None), Task.not_before <= func.now()),
            limits.room_for_task(user_limit),
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
            **RELEASED,
        },
    )
    return row is not None and close_attempt(tx, lease.task_id, lease.attempt, outcome)


def wait_out(tx: Transaction, lease: Lease, said: Callable[[float], Draft]) -> bool:
    """Give a task back because what it needs is away: twice as long each time, while no step comes in between.

    `said` makes the event that tells it, from the seconds until the next attempt. Raises AuthorityLostError.
    """
    hold(tx, lease)
    first, longest = OUTAGE_REST_S
    rest = min(longest, first * 2.0 ** min(_outages_in_a_row(tx, lease), 16))
    return hand_over(tx, lease, OUTAGE, said(rest), rest=rest)


def give_back_after_death(tx: Transaction, lease: Lease, *, error: Failure) -> bool:
    """The sandbox died by itself. Count it: rest longer each time, and fail with `error` when it is one too many."""
    deaths = hold(tx, lease).deaths + 1
    if deaths >= MAX_DEATHS:
        return fail(tx, lease, error)
    row = tx.advance(
        lease.held,
        values={
            "status": Status.PENDING,
            "deaths": deaths,
            "not_before": in_seconds(2.0**deaths),
            "enqueued_at": None,  # the sweep sends its wake-up when it has rested
            **RELEASED,
        },
    )
    return row is not None and close_attempt(tx, lease.task_id, lease.attempt, "sandbox_died")


def _outages_in_a_row(tx: Transaction, lease: Lease) -> int:
    """Attempts right before this one that ended so, back to the last one that recorded a step."""
    numbers = select(Attempt.number).where(Attempt.task_id == lease.task_id, Attempt.number < lease.attempt)
    otherwise = numbers.where(Attempt.outcome.is_distinct_from(OUTAGE)).order_by(Attempt.number.desc()).limit(1)
    last_step = select(func.max(Step.attempt)).where(Step.task_id == lease.task_id)
    since = func.greatest(otherwise.scalar_subquery(), last_step.scalar_subquery(), 0)
    return max(0, lease.attempt - 1 - int(tx.connection.execute(select(since)).scalar_one()))


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
            **RELEASED,
            "completed_at": func.now(),
            "cancel_requested_at": None,
            "deaths": 0,
        },
    )
    return row is not None and close_attempt(tx, lease.task_id, lease.attempt, outcome)


def _resume_reason(tx: Transaction, task_id: UUID) -> str | None:
    """How the last attempt ended; None for the first one."""
    outcome: str | None = tx.connection.execute(
        select(func.coalesce(Attempt.outcome, "worker_lost"))
        .where(Attempt.task_id == task_id)
        .order_by(Attempt.number.desc())
        .limit(1)
    ).scalar_one_or_none()
    return outcome
