"""What the gateway asks Postgres for, beyond `infra.tasks`: in one query for all that is watched here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, func, select, text

from api.gateway.topics import TaskStates
from infra.tables import Task
from infra.tasks.log import TaskRow
from infra.tasks.states import OPEN


def epoch(connection: Connection) -> str:
    """Names this history of this database: 16 hex digits.

    It changes when the database was restored, by whatever means, and `seq` may have gone back: another cluster has
    another system identifier, point-in-time recovery starts another timeline, a dump makes another `tasks` table.
    """
    parts = connection.execute(
        text(
            "select (select system_identifier from pg_control_system()),"
            " (select timeline_id from pg_control_checkpoint()), 'tasks'::regclass::oid::bigint"
        )
    ).one()
    return hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()[:16]


def open_tasks_of(connection: Connection, user_ids: Sequence[UUID]) -> dict[UUID, TaskStates]:
    """Of each user: `status` and `last_seq` of the tasks that have not ended."""
    found: dict[UUID, TaskStates] = {user_id: {} for user_id in user_ids}
    rows = connection.execute(
        select(Task.user_id, Task.id, Task.status, Task.last_seq).where(
            Task.user_id == func.any(list(user_ids)), Task.status.in_(OPEN)
        )
    )
    for row in rows:
        found[row.user_id][row.id] = (row.status, row.last_seq)
    return found


def tasks_by_id(connection: Connection, user_id: UUID, task_ids: Sequence[UUID]) -> list[TaskRow]:
    return list(
        connection.execute(
            select(*Task.__table__.c)
            .where(Task.user_id == user_id, Task.id == func.any(list(task_ids)))
            .order_by(Task.id)
        )
    )
