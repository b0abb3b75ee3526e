"""The event log: events are stored in the transaction that changes their task, and published after its commit.

`seq` comes from the update of the `tasks` row, whose lock makes commit order equal seq order. A publish that is lost
(crash between commit and publish, Redis gone) loses nothing: subscribers compare `last_seq` and read the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Integer, Row, column, func, insert, select, text, update

from agent_runtime.protocol import EVENT_FIELDS
from infra.db import Database
from infra.tables import Event as EventRow
from infra.tables import Task

Data = dict[str, Any]
TaskRow = Row[Any]
Draft = tuple[str, Data | Callable[[TaskRow], Data]]
"""An event to be: its type, and its data or a function of the updated row that makes them."""

PAGE_BYTES = 4 * 2**20
"""Of the data of a page of events, as Postgres writes JSON."""


@dataclass(frozen=True, slots=True)
class Event:
    """One durable fact of a task."""

    task_id: UUID
    user_id: UUID
    seq: int
    type: str
    data: Data
    at: datetime

    def as_json(self) -> Data:
        """The wire form (design section 7)."""
        return event_json(self.task_id, self.seq, self.type, self.at, self.data)


def event_json(task_id: UUID, seq: int, type_: str, at: datetime, data: Data) -> Data:
    return {"v": 1, "task_id": str(task_id), "seq": seq, "type": type_, "at": rfc3339(at), "data": data}


def rfc3339(at: datetime) -> str:
    """Microseconds and `Z`, whatever time zone `at` has."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Publisher(Protocol):
    """Where committed events go. Must not block and must not raise: it rings a doorbell."""

    def publish_events(self, events: Sequence[Event]) -> None: ...


@dataclass(slots=True)
class Transaction:
    """A database transaction and the events that it appends."""

    connection: Connection
    events: list[Event] = field(default_factory=list)

    def advance(
        self, where: Sequence[ColumnElement[bool]], *drafts: Draft, values: Data | None = None
    ) -> TaskRow | None:
        """Update the one task that `where` matches and append `drafts` to its log, as one statement and an insert.

        Returns the row as it is afterwards; None, with nothing written, when no row matches: the task is not in the
        state that the caller expects, or its lease is gone.
        """
        changed = {**(values or {}), "last_seq": Task.last_seq + len(drafts)}
        statement = update(Task).where(*where).values(changed).returning(*Task.__table__.c)
        row = self.connection.execute(statement).one_or_none()
        if row is not None:
            self.append(row, drafts)
        return row

    def append(self, row: TaskRow, drafts: Sequence[Draft]) -> None:
        """Store `drafts` as the last events of a task whose `last_seq` counts them already."""
        fresh = events_of(row, drafts, datetime.now(UTC))
        if fresh:
            self.connection.execute(
                insert(EventRow),
                [{"task_id": e.task_id, "seq": e.seq, "type": e.type, "data": e.data, "at": e.at} for e in fresh],
            )
            self.events += fresh


def events_of(row: TaskRow, drafts: Sequence[Draft], at: datetime) -> list[Event]:
    """The last events of a task whose `last_seq` counts them already. Raises ValueError as `checked` does."""
    first = row.last_seq - len(drafts) + 1
    return [
        Event(row.id, row.user_id, seq, type_, checked(type_, data(row) if callable(data) else data), at)
        for seq, (type_, data) in enumerate(drafts, first)
    ]


def checked(type_: str, data: Data) -> Data:
    """`data`. Raises ValueError unless it has exactly the fields of that event type."""
    if data.keys() != set(EVENT_FIELDS[type_]):
        raise ValueError(f"event {type_} needs exactly {EVENT_FIELDS[type_]}, got {tuple(data)}")
    return data


class TaskLog:
    """The way to change tasks: a transaction whose events are published once it is committed."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self.database = database
        self._publisher = publisher

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.database.begin() as connection:
            transaction = Transaction(connection)
            yield transaction
        self._publish(transaction)

    @contextmanager
    def single_statement(self) -> Iterator[Transaction]:
        """For exactly one statement, which is committed by itself: it saves the round trips of BEGIN and COMMIT."""
        with self.database.autocommit() as connection:
            transaction = Transaction(connection)
            yield transaction
        self._publish(transaction)

    def _publish(self, transaction: Transaction) -> None:
        if transaction.events:
            self._publisher.publish_events(transaction.events)


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order, in wire form. `more`: Postgres has some behind the last of them."""

    events: list[Data]
    more: bool


# Cut twice: by the size on disk, which costs nothing to know, so that few of a page of large events are unpacked for
# the cut by the size of their text. Written out, as it stands in the way of every reconnect.
_PAGE = text("""
with page as (
    select seq, type, at, data from events where task_id = :task_id and seq > :after order by seq limit :limit + 1
), stored as (
    select *,
        count(*) over () as found,
        row_number() over (order by seq) as number,
        sum(pg_column_size(data)) over (order by seq rows unbounded preceding) as stored_bytes
    from page
), sized as (
    select *, sum(octet_length(data::text)) over (order by seq rows unbounded preceding) as bytes
    from stored where number <= :limit and (stored_bytes <= :max_bytes or number = 1)
)
select seq, type, at, data, found from sized where bytes <= :max_bytes or number = 1 order by seq
""").columns(EventRow.seq, EventRow.type, EventRow.at, EventRow.data, column("found", Integer))


def read_events(
    connection: Connection, task_id: UUID, *, after: int, limit: int, max_bytes: int = PAGE_BYTES
) -> EventPage:
    """Events with `seq > after`: at most `limit`, and at most `max_bytes` of data unless the first alone has more.

    What does not fit never leaves Postgres.
    """
    asked = {"task_id": task_id, "after": after, "limit": limit, "max_bytes": max_bytes}
    rows = connection.execute(_PAGE, asked).all()
    events = [event_json(task_id, row.seq, row.type, row.at, row.data) for row in rows]
    return EventPage(events, more=bool(rows) and rows[0].found > len(rows))


def last_seqs(connection: Connection, task_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest `seq` of each task that exists, in one query."""
    rows = connection.execute(select(Task.id, Task.last_seq).where(Task.id == func.any(list(task_ids))))
    return {row.id: row.last_seq for row in rows}
