"""A worker's authority over a task, and what every end of an attempt has in common, whoever brings it about."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update

from agent_runtime.protocol import Failure
from infra.errors import AuthorityLostError
from infra.tables import Attempt, ModelCall, Task
from infra.tasks.log import TaskRow, Transaction

RELEASED: dict[str, Any] = {"lease_token": None, "worker_id": None}
"""The columns of a task that nobody holds."""

MAX_DEATHS = 5
"""Deaths of sandboxes or workers without a new step in between, after which a task is taken for poison."""

POISONED: Failure = {
    "code": "worker_died_repeatedly",
    "message": f"{MAX_DEATHS} workers or sandboxes in a row died on this task without a step forward",
    "hint": "Look into the workers' logs (out of memory?), then retry the task.",
}


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


def hold(tx: Transaction, lease: Lease) -> TaskRow:
    """Lock the row for this transaction and prove the lease. Raises AuthorityLostError."""
    row = tx.connection.execute(
        select(*Task.__table__.c).where(*lease.held).with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        raise AuthorityLostError(f"attempt {lease.attempt} of task {lease.task_id} no longer owns it")
    return row


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
