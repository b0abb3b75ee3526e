"""Whose turn it is: which pending task the next free slot takes, and which wake-ups are worth sending.

The line. A pending task stands behind all that have a lower rank, which is how many tasks of its user run, plus how
many of that user's stand before it; among equals the oldest comes first. So the first task of somebody of whom nothing
runs is behind nobody's second one, however many others have sent. Not in the line: what rests (`not_before`), what is
being cancelled, and what is beyond a limit (`infra.limits`).

Wake-ups. One says that a slot may look, not at what: the slot takes whoever is first in the line, though for a user of
whom nothing runs that is the task it names. So there must never be fewer wake-ups than slots that could be filled:

    a task is created        its wake-up is sent, unless its user has as many open tasks as may run at a time
    … retried, or told more  it is sent
    an attempt has ended     one is sent for who is first in the line then
    it led to another task   that one's own is still under way; the task that it named counts as not sent
    it led to none           the same
    it got lost              the sweep sends it after RESEND_AFTER

`enqueued_at` is when the wake-up of a pending task was sent, null when it counts as not sent. The sweep sends what is
due, in the order of the line, while the queue is short. It sends first and marks afterwards: who dies in between leaves
wake-ups that are sent once more, which costs a look. One sweeper at a time does so, under an advisory lock: else two
that find room for ten would both send ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from infra import limits
from infra.tasks import transitions
from infra.tasks.log import TaskLog, TaskRow
from infra.tasks.transitions import Lease

RESEND_AFTER = timedelta(seconds=30)

LOOKS = 8
"""A slot looks at the line again when others were faster; then it leaves the rest to the sweep."""
_ABREAST = 16
"""So many users at the head of the line are looked at by slots that come at the same time."""
_SENDING = 0x6661_7268_616E_65
"""Advisory lock of the sweeper that sends wake-ups."""


class Wanted(NamedTuple):
    """A pending task that may be claimed, and the number that its next attempt would have."""

    task_id: UUID
    attempt: int


_CLAIMABLE = "status = 'pending' and cancel_requested_at is null and (not_before is null or not_before <= now())"

# Users are found by steps through the index (status, user_id, id), never by a look at all that is pending.
_WAITING_USERS = f"""
with recursive waiting (user_id) as (
    (select user_id from tasks where status = 'pending' order by user_id limit 1)
    union all
    select (
        select tasks.user_id from tasks where status = 'pending' and tasks.user_id > waiting.user_id
        order by tasks.user_id limit 1
    )
    from waiting where waiting.user_id is not null
), counted as (
    select users.id as user_id, {limits.RUNNING_OF_USER} as running, {limits.OF_USER} as allowed
    from waiting join users on users.id = waiting.user_id
)
"""  # noqa: S608  (put together from constants, here and below)

_IS_ALONE = text(f"""
select from tasks
where id = :task_id and {_CLAIMABLE} and exists (
    select from users where users.id = tasks.user_id and {limits.RUNNING_OF_USER} = 0 and {limits.OF_USER} > 0
) and not exists (select from limits where name = '{limits.TASKS}')
""")  # noqa: S608

_HEAD = text(f"""
{_WAITING_USERS}
select first.id, first.attempt + 1 as attempt, counted.user_id, counted.running
from counted cross join lateral (
    select id, attempt from tasks where {_CLAIMABLE} and user_id = counted.user_id
    order by id <> coalesce(cast(:hint as uuid), id), id limit 1
) first
where counted.running < counted.allowed and {limits.LEFT_IN_ALL} > 0
order by counted.running, first.id
limit :limit
""")  # noqa: S608

_DUE = text(f"""
{_WAITING_USERS}
select next.id, next.attempt + 1 as attempt
from counted cross join lateral (
    select id, attempt, enqueued_at, counted.running + row_number() over (order by id) as rank
    from (
        select id, attempt, enqueued_at from tasks where {_CLAIMABLE} and user_id = counted.user_id
        order by id limit greatest(counted.allowed - counted.running, 0)
    ) could_run
) next
where next.enqueued_at is null or next.enqueued_at < now() - :resend_after
order by next.rank, next.id
limit least(:limit, {limits.LEFT_IN_ALL})
""")  # noqa: S608

_ANY_UNLOCKED = text("""
select id from users where id = any(:user_ids) order by array_position(:user_ids, id) limit 1
for no key update skip locked
""")

_MARK_SENT = text("update tasks set enqueued_at = now() where id = any(:task_ids) and status = 'pending'")
_MARK_UNSENT = text("update tasks set enqueued_at = null where id = :task_id and status = 'pending'")


def claim_next(
    tasks: TaskLog, named: UUID, *, worker_id: UUID, worker_name: str, sandbox: str, user_limit: int
) -> tuple[Lease, TaskRow] | None:
    """Take who is first in the line, for a slot that a wake-up for `named` came to. None when nobody can be taken.

    Raises UnavailableError. When the answer to a commit was lost, so may be the claim: see `transitions.claim`.
    """
    claimed = None
    for _ in range(LOOKS):
        with tasks.transaction() as tx:
            first = _first(tx.connection, named, user_limit)
            if first is None:
                break
            claimed = transitions.claim(
                tx, first, worker_id=worker_id, worker_name=worker_name, sandbox=sandbox, user_limit=user_limit
            )
        if claimed is not None:
            break
    if claimed is None or claimed[0].task_id != named:
        with tasks.database.autocommit() as connection:
            mark_unsent(connection, named)
    return claimed


def head(connection: Connection, *, user_limit: int, limit: int = 1, named: UUID | None = None) -> Sequence[Wanted]:
    """The first in the line, one of each user. For the user of `named` that is `named`, if it stands in the line."""
    return [Wanted(row.id, row.attempt) for row in _head(connection, user_limit, limit, named)]


def due(connection: Connection, *, limit: int, user_limit: int) -> Sequence[Wanted]:
    """What the sweep has to send wake-ups for: tasks that could run now and whose wake-up is not sent, or old."""
    values = {"limit": limit, "user_limit": user_limit, "hint": None, "resend_after": RESEND_AFTER}
    return [Wanted(row.id, row.attempt) for row in connection.execute(_DUE, values)]


def may_send(connection: Connection) -> bool:
    """Whether no other sweeper sends just now. Holds them off until the transaction ends."""
    return bool(connection.execute(text("select pg_try_advisory_xact_lock(:key)"), {"key": _SENDING}).scalar_one())


def mark_sent(connection: Connection, sent: Sequence[Wanted]) -> None:
    """Wake-ups for these tasks are in the queue."""
    connection.execute(_MARK_SENT, {"task_ids": [wanted.task_id for wanted in sent]})


def mark_unsent(connection: Connection, task_id: UUID) -> None:
    """The wake-up of a task came to somebody who could not use it: the sweep shall send another one."""
    connection.execute(_MARK_UNSENT, {"task_id": task_id})


def _first(connection: Connection, named: UUID, user_limit: int) -> UUID | None:
    """The task to claim. Where several users are first, one whom no other slot is just claiming for."""
    values = {"task_id": named, "user_limit": user_limit}
    if connection.execute(_IS_ALONE, values).one_or_none() is not None:
        return named
    rows = _head(connection, user_limit, _ABREAST, named)
    if not rows:
        return None
    abreast: dict[UUID, UUID] = {row.user_id: row.id for row in rows if row.running == rows[0].running}
    free = connection.execute(_ANY_UNLOCKED, {"user_ids": list(abreast)}).scalar_one_or_none()
    first: UUID = rows[0].id if free is None else abreast[free]
    return first


def _head(connection: Connection, user_limit: int, limit: int, named: UUID | None) -> Sequence[Row[Any]]:
    return connection.execute(_HEAD, {"user_limit": user_limit, "limit": limit, "hint": named}).all()
