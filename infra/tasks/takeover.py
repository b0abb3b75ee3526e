"""The take-over of a dead worker's tasks by one of its host, who knows of the death by a lock and waits for no ttl.

Who owns a sandbox that runs is said by two things: the row of its task's current attempt names it, and that task's
lease names the worker. States of such a sandbox, and who may move it:

    owned      its worker lives. That worker alone serves its link, kills it, removes it
    orphaned   its worker's process is dead; the rows are as they were. Nobody serves it, and its loop asks again and
               again. Who holds the dead process's lock (`workers.process_lock`) may take it over; who sweeps may give
               its task back once the worker's `alive_until` has passed. Both lock the worker's row first, so one does
    adopted    = owned by the heir: `take_over` gave the task a new attempt, a new token and the heir's id, and named
               the same sandbox, in one transaction. What the dead worker may still have on its way to Postgres carries
               the old token
    leftover   no current attempt of a running task names it. Any sweep of its host removes it (`workers.sweep`)

Who dies when:

    the heir, before the commit   nothing has changed; the next holder of the lock begins again
    the heir, after the commit    its own lock names the heir, so the next holder of that one takes over from it. Until
                                  it has written its own name its lock names both, the dead worker and itself
    the sandbox                   before the commit: it does not run, so it is not asked for, and its task goes back to
                                  pending. After that: a death as in any attempt, seen by the heir
    Postgres, in the commit       the heir does not know whether it owns the tasks; it runs none, so its heartbeat finds
                                  tasks of its own that nobody runs, and gives them back
    a sweeper, at the same time   it has the worker's row first: nothing is left to take. Or second: it finds it swept
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, update

from infra.tables import Attempt, Task, Worker
from infra.tasks import transitions
from infra.tasks.log import TaskRow, Transaction
from infra.tasks.states import Status
from infra.tasks.transitions import Lease


@dataclass(frozen=True, slots=True)
class HeldTask:
    """A running task of a worker, with the sandbox that its attempt names."""

    task_id: UUID
    sandbox_id: str | None
    sandbox_kind: str | None


@dataclass(frozen=True, slots=True)
class Estate:
    """What a worker that was not swept has left. `left_at`: it announced that it goes."""

    protocol_version: int
    runtime: str | None
    left_at: datetime | None
    tasks: tuple[HeldTask, ...]


@dataclass(frozen=True, slots=True)
class Adoption:
    """A task with the lease of its new attempt, and the sandbox in which it goes on."""

    lease: Lease
    task: TaskRow
    sandbox_id: str


def estate_of(connection: Connection, worker_id: UUID) -> Estate | None:
    """None when there is nothing to inherit: no such worker, or a sweep was first."""
    found = select(Worker).where(Worker.id == worker_id, Worker.swept_at.is_(None))
    worker = connection.execute(found.with_only_columns(*Worker.__table__.c)).one_or_none()
    if worker is None:
        return None
    rows = connection.execute(_held_by(worker_id)).all()
    tasks = tuple(HeldTask(row.id, row.sandbox_id, row.sandbox_kind) for row in rows)
    return Estate(worker.protocol_version, worker.runtime, worker.left_at, tasks)


def take_over(
    tx: Transaction, dead: UUID, *, heir: UUID, sandboxes: Mapping[UUID, str], all_of_it: bool
) -> tuple[list[Adoption], list[TaskRow]]:
    """Give the tasks in `sandboxes` (with the sandbox that each was seen in) to the heir, as one transaction.

    `all_of_it`: the other tasks of the dead worker go back to pending; else they stay as they are, for another heir or
    the sweep. The caller holds the lock of the dead worker's process. Returns what was adopted, and what was given
    back. Nothing happens when a sweep was first, or has taken the heir for dead too.
    """
    locked = tx.connection.execute(
        select(Worker.swept_at).where(Worker.id.in_((dead, heir))).order_by(Worker.id).with_for_update(key_share=True)
    ).all()
    if len(locked) < 2 or any(row.swept_at is not None for row in locked):
        return [], []
    held = tx.connection.execute(_held_by(dead).with_for_update(of=Task)).all()
    adopted = [
        _adopt(tx, task, heir)
        for task in held
        if task.sandbox_id is not None and sandboxes.get(task.id) == task.sandbox_id and _may_live(task)
    ]
    taken = {adoption.task.id for adoption in adopted}
    if not all_of_it and len(taken) < len(held):
        return adopted, []
    tx.connection.execute(update(Worker).where(Worker.id == dead).values(swept_at=func.now()))
    rest = [transitions.take_back(tx, task) for task in held if task.id not in taken]
    return adopted, [row for row in rest if row is not None]


def _held_by(worker_id: UUID) -> Any:
    columns = (Task.id, Task.attempt, Task.lease_token, Task.deaths, Task.cancel_requested_at)
    return (
        select(*columns, Worker.left_at, Attempt.sandbox_id, Attempt.sandbox_kind)
        .join(Worker, Worker.id == Task.worker_id)
        .join(Attempt, (Attempt.task_id == Task.id) & (Attempt.number == Task.attempt))
        .where(Task.worker_id == worker_id, Task.status == Status.RUNNING)
        .order_by(Task.id)
    )


def _may_live(task: Any) -> bool:
    """Not poison: what has killed so many workers kills the next one too."""
    return task.left_at is not None or task.deaths + 1 < transitions.MAX_DEATHS


def _adopt(tx: Transaction, task: Any, heir: UUID) -> Adoption:
    lease, row = transitions.adopt(tx, task, heir, sandbox_id=task.sandbox_id, sandbox_kind=task.sandbox_kind)
    return Adoption(lease, row, task.sandbox_id)
