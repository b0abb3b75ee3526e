"""Money: held before a model call, settled after it. A task cannot exceed its budget, not by one call (G9).

A hold is an upper bound of what the call can cost. It is given back only when the request was provably not
accepted; a call that was cut off counts with its whole hold, since the provider bills what it generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from infra.errors import BudgetExceededError
from infra.ids import new_id
from infra.tables import ModelCall, Task
from infra.tasks import step_writes
from infra.tasks.log import TaskLog, Transaction
from infra.tasks.transitions import Lease, hold


@dataclass(frozen=True, slots=True)
class Hold:
    """One reserved model call. `try_` counts the tries of its step, from 1."""

    call_id: UUID
    step: int
    try_: int
    amount: Decimal
    spent_before: Decimal
    """What the task has cost before this call: only the lease's holder adds to it."""


@dataclass(frozen=True, slots=True)
class Payment:
    """What a call that is over has cost, in US dollars. It replaces the call's hold (`records.record_step`)."""

    call_id: UUID | None
    cost: Decimal
    usage: dict[str, Any] | None


def remaining(tx: Transaction, lease: Lease) -> Decimal:
    """US dollars that are neither spent nor held. Raises AuthorityLostError."""
    row = hold(tx, lease)
    left: Decimal = row.budget_usd - row.spent_usd - row.reserved_usd
    return left


def reserve(tasks: TaskLog, lease: Lease, *, step: int, model: str, amount: Decimal) -> Hold:
    """Hold `amount` for a call that is about to be made.

    Raises:
        AuthorityLostError
        BudgetExceededError: the hold would pass the budget; nothing is held.
    """
    while True:
        try:
            return _reserve(tasks, lease, step, model, amount)
        except IntegrityError:  # two tries of one step, at once: the other has this number
            continue


def _reserve(tasks: TaskLog, lease: Lease, step: int, model: str, amount: Decimal) -> Hold:
    call_id = new_id()
    with tasks.single_statement() as tx:
        row = step_writes.execute(
            tx,
            lease,
            step_writes.RESERVE,
            call_id=call_id,
            attempt=lease.attempt,
            step=step,
            model=model,
            amount=amount,
        )
        if row is not None:
            return Hold(call_id, step, row[0], amount, row.spent_usd)
        task = hold(tx, lease)
    raise BudgetExceededError(
        f"the next model call may cost {amount:.4f} USD; {task.spent_usd:.4f} of {task.budget_usd:.4f} USD are spent"
    )


def release(tx: Transaction, lease: Lease, held: Hold, error: str) -> None:
    """The request was provably not accepted (refused by status, or never sent): nothing was spent."""
    _close(tx, lease, held, error, state="released", cost=Decimal(0))


def lose(tx: Transaction, lease: Lease, held: Hold, error: str) -> None:
    """The call was cut off after it may have been accepted: the whole hold counts as spent."""
    _close(tx, lease, held, error, state="lost", cost=held.amount)


def _close(tx: Transaction, lease: Lease, held: Hold, error: str, *, state: str, cost: Decimal) -> None:
    """Once. The task's row is locked first, as by a claim: so the two never wait for each other."""
    is_open = select(ModelCall.id).where(ModelCall.id == held.call_id, ModelCall.state == "reserved").exists()
    row = tx.advance(
        (*lease.held, is_open),
        values={"reserved_usd": Task.reserved_usd - held.amount, "spent_usd": Task.spent_usd + cost},
    )
    if row is None:
        hold(tx, lease)  # closed before
        return
    closed = {"state": state, "cost_usd": cost, "ended_at": func.now(), "error": error}
    tx.connection.execute(update(ModelCall).where(ModelCall.id == held.call_id).values(closed))
