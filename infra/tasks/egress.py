"""The audit records of connections that sandboxes made, or tried to make, through their link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as upsert

from infra.ids import new_id
from infra.tables import EgressConnection, Project
from infra.tasks.log import Transaction, rfc3339
from infra.tasks.transitions import Lease, hold

Decision = Literal["allowed", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRecord:
    """One connection, as far as it is known; see the table for the fields."""

    host: str
    port: int
    method: str
    decision: Decision
    reason: str | None = None
    address: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 1
    ended_at: datetime | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: UUID = field(default_factory=new_id)


_LATER = ("address", "decision", "reason", "bytes_up", "bytes_down", "connections", "ended_at")
"""What a record that is written again may change."""


def record_egress(tx: Transaction, lease: Lease, records: Sequence[EgressRecord]) -> None:
    """Write records, or what became of them. A repeat changes nothing. Raises AuthorityLostError."""
    hold(tx, lease)
    if not records:
        return
    rows = [asdict(record) | {"task_id": lease.task_id, "attempt": lease.attempt} for record in records]
    statement = upsert(EgressConnection).values(rows)
    changed = {name: statement.excluded[name] for name in _LATER}
    tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=[EgressConnection.id], set_=changed, where=EgressConnection.task_id == lease.task_id
        )
    )


def list_egress(connection: Connection, task_id: UUID, *, after: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Records of a task, oldest first. The caller has checked whose task it is."""
    query = select(*EgressConnection.__table__.c).where(EgressConnection.task_id == task_id)
    if after is not None:
        query = query.where(EgressConnection.id > after)
    rows = connection.execute(query.order_by(EgressConnection.id).limit(limit)).mappings()
    return [
        {
            **{name: row[name] for name in _SHOWN},
            "id": str(row["id"]),
            "started_at": rfc3339(row["started_at"]),
            "ended_at": row["ended_at"] and rfc3339(row["ended_at"]),
        }
        for row in rows
    ]


def egress_of(connection: Connection, project_id: UUID) -> Any:
    """What the project allows, as `infra.egress.check_egress` returned it."""
    return connection.execute(select(Project.egress).where(Project.id == project_id)).scalar_one()


_SHOWN = (
    "attempt", "host", "port", "address", "method", "decision", "reason", "bytes_up", "bytes_down", "connections",
)  # fmt: skip
