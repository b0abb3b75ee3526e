"""Workers, their heartbeats, and the sweep that gives the work of lost workers to others. Which task a worker gets, and
when its wake-up is sent, stands in `infra.tasks.turns`; what a sweep does to a task, in `infra.tasks.transitions`.

A worker's row is its lease: `alive_until` is pushed forward every few seconds, in database time. Nobody touches
task rows for a heartbeat. A sweep marks a lost worker and requeues its tasks in one transaction, so that a worker
which comes back finds itself either still owner of all its tasks or of none.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, update

from infra.ids import new_id
from infra.tables import Attempt, Task, Worker
from infra.tasks import transitions
from infra.tasks.log import Draft, TaskRow, Transaction
from infra.tasks.states import Status
from infra.tasks.transitions import Lease, in_seconds


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`alive`: this worker still owns its tasks, `held`. `cancelled`: those whose user wants them to end."""

    alive: bool
    held: tuple[Lease, ...]
    cancelled: tuple[UUID, ...]


def register(
    connection: Connection, *, name: str, slots: int, protocol_version: int, ttl: float, runtime: str | None = None
) -> UUID:
    """A new worker row, alive for `ttl` seconds. `runtime`: which bundle its sandboxes run."""
    worker_id = new_id()
    connection.execute(
        insert(Worker).values(
            id=worker_id,
            name=name,
            slots=slots,
            protocol_version=protocol_version,
            runtime=runtime,
            alive_until=in_seconds(ttl),
        )
    )
    return worker_id


def heartbeat(connection: Connection, worker_id: UUID, *, ttl: float) -> Heartbeat:
    """Stay alive for `ttl` seconds more, unless a sweep has given this worker's tasks away, or it has left."""
    beating = (Worker.id == worker_id, Worker.swept_at.is_(None), Worker.left_at.is_(None))
    alive = connection.execute(update(Worker).where(*beating).values(alive_until=in_seconds(ttl))).rowcount
    rows = connection.execute(
        select(Task.id, Task.lease_token, Task.attempt, Task.cancel_requested_at).where(
            Task.worker_id == worker_id, Task.status == Status.RUNNING
        )
    ).all()
    return Heartbeat(
        bool(alive),
        tuple(Lease(row.id, row.lease_token, row.attempt) for row in rows),
        tuple(row.id for row in rows if row.cancel_requested_at is not None),
    )


def cancelled(connection: Connection, worker_id: UUID) -> tuple[UUID, ...]:
    """The tasks of a worker whose user wants them to end."""
    rows = connection.execute(
        select(Task.id).where(
            Task.worker_id == worker_id, Task.status == Status.RUNNING, Task.cancel_requested_at.is_not(None)
        )
    )
    return tuple(rows.scalars())


def leave(connection: Connection, worker_id: UUID, *, seconds: float) -> None:
    """A worker that goes: its tasks may be taken by anybody `seconds` from now, and by who gets its lock at once.

    It beats no more, and its tasks count no death.
    """
    connection.execute(
        update(Worker)
        .where(Worker.id == worker_id)
        .values(alive_until=func.least(Worker.alive_until, in_seconds(seconds)), left_at=func.now())
    )


def live_slots(connection: Connection) -> int:
    """How many tasks all live workers can run at a time."""
    alive = (Worker.alive_until > func.now(), Worker.swept_at.is_(None), Worker.left_at.is_(None))
    return connection.execute(select(func.coalesce(func.sum(Worker.slots), 0)).where(*alive)).scalar_one()


def sandboxes_in_use(connection: Connection) -> set[str]:
    """Sandboxes of running tasks: the only ones that may exist."""
    rows = connection.execute(
        select(Attempt.sandbox_id)
        .join(Task, (Task.id == Attempt.task_id) & (Task.attempt == Attempt.number))
        .where(Task.status == Status.RUNNING)
    ).scalars()
    return {sandbox_id for sandbox_id in rows if sandbox_id is not None}


def sweep_lost_workers(tx: Transaction) -> list[TaskRow]:
    """Mark workers without a heartbeat, and requeue (or cancel, or fail as poison) every task that they held.

    `SKIP LOCKED` lets any number of workers sweep at once. What a process's own host may do sooner, once it knows
    that the process is dead, stands in `infra.tasks.takeover`.
    """
    lost = Worker.alive_until < func.now()
    found = select(Worker.id).where(lost, Worker.swept_at.is_(None)).with_for_update(skip_locked=True)
    workers = tx.connection.execute(found).scalars().all()
    tx.connection.execute(update(Worker).where(Worker.id == func.any(list(workers))).values(swept_at=func.now()))
    # Of all swept workers: a claim that was under way when its worker was marked may have been committed after that.
    held = tx.connection.execute(
        select(Task.id, Task.attempt, Task.lease_token, Task.deaths, Task.cancel_requested_at, Worker.left_at)
        .join(Worker, Worker.id == Task.worker_id)
        .where(Task.status == Status.RUNNING, Worker.swept_at.is_not(None))
    ).all()
    return [row for task in held if (row := transitions.take_back(tx, task)) is not None]


def decline(tx: Transaction, task_id: UUID, *said: Draft) -> None:
    """A worker can take no task now: the wake-up that came to it counts as not sent, and events say why."""
    tx.advance((Task.id == task_id, Task.status == Status.PENDING), *said, values={"enqueued_at": None})
