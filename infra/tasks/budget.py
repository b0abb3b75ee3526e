"""Money: held before a model call, settled after it. A task cannot exceed its budget, not by one call (G9).

A hold is an upper bound of what the call can cost. It is given back only when the request was provably not
accepted; a call that was cut off counts with its whole hold, since the provider bills what it generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.orm import InstrumentedAttribute

from infra.errors import BudgetExceededError
from infra.ids import new_id
from infra.tables import ModelCall, Task
from infra.tasks.log import Transaction
from infra.tasks.transitions import Lease, hold


@dataclass(frozen=True, slots=True)
class Hold:
    """One reserved model call. `try_` counts the tries of its step, from 1."""

    call_id: UUID
    step: int
    try_: int
    amount: Decimal


def remaining(tx: Transaction, lease: Lease) -> Decimal:
    """US dollars that are neither spent nor held. Raises AuthorityLostError."""
    row = hold(tx, lease)
    left: Decimal = row.budget_usd - row.spent_usd - row.reserved_usd
    return left


def reserve(tx: Transaction, lease: Lease, *, step: int, model: str, amount: Decimal) -> Hold:
    """Hold `amount` for a call that is about to be made.

    One statement, so `tx` may be a single-statement one: it is on the way of every step.

    Raises:
        AuthorityLostError
        BudgetExceededError: the hold would pass the budget; nothing is held.
    """
    call_id = new_id()
    held = (
        update(Task)
        .where(*lease.held, Task.spent_usd + Task.reserved_usd + amount <= Task.budget_usd)
        .values(reserved_usd=Task.reserved_usd + amount)
        .returning(Task.id)
        .cte("held")
    )
    # Nobody else counts tries of this task meanwhile: one lease, and one call at a time under it.
    earlier = select(func.coalesce(func.max(ModelCall.try_), 0)).where(
        ModelCall.task_id == lease.task_id, ModelCall.step == step
    )
    columns: dict[InstrumentedAttribute[Any], Any] = {
        ModelCall.id: literal(call_id),
        ModelCall.task_id: held.c.id,
        ModelCall.attempt: literal(lease.attempt),
        ModelCall.step: literal(step),
        ModelCall.try_: earlier.scalar_subquery() + 1,
        ModelCall.model: literal(model),
        ModelCall.state: literal("reserved"),
        ModelCall.reserved_usd: literal(amount, ModelCall.reserved_usd.type),
    }
    try_ = tx.connection.execute(
        insert(ModelCall).from_select(list(columns), select(*columns.values())).returning(ModelCall.try_)
    ).scalar_one_or_none()
    if try_ is None:
        task = hold(tx, lease)
        raise BudgetExceededError(
            f"the next model call may cost {amount:.4f} USD; {task.spent_usd:.4f} of {task.budget_usd:.4f} USD"
            " are spent"
        )
    return Hold(call_id, step, try_, amount)


def settle(
    tx: Transaction, lease: Lease, held: Hold, *, cost: Decimal, usage: dict[str, Any], request_id: str | None
) -> Decimal:
    """The call is over and its usage is known: `cost` replaces the hold. Returns what the task has cost so far."""
    return _close(tx, lease, held, "settled", cost, usage=usage, request_id=request_id)


def release(tx: Transaction, lease: Lease, held: Hold, error: str) -> None:
    """The request was provably not accepted (refused by status, or never sent): nothing was spent."""
    _close(tx, lease, held, "released", Decimal(0), error=error)


def lose(tx: Transaction, lease: Lease, held: Hold, error: str) -> None:
    """The call was cut off after it may have been accepted: the whole hold counts as spent."""
    _close(tx, lease, held, "lost", held.amount, error=error)


def _close(tx: Transaction, lease: Lease, held: Hold, state: str, cost: Decimal, **more: Any) -> Decimal:
    """Once. The task's row is locked first, as by a claim: so the two never wait for each other."""
    is_open = select(ModelCall.id).where(ModelCall.id == held.call_id, ModelCall.state == "reserved").exists()
    row = tx.advance(
        (*lease.held, is_open),
        values={"reserved_usd": Task.reserved_usd - held.amount, "spent_usd": Task.spent_usd + cost},
    )
    if row is None:
        row = hold(tx, lease)  # closed before
    else:
        closed = {"state": state, "cost_usd": cost, "ended_at": func.now(), **more}
        tx.connection.execute(update(ModelCall).where(ModelCall.id == held.call_id).values(closed))
    spent: Decimal = row.spent_usd
    return spent
