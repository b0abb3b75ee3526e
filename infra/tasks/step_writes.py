"""What a step writes, each in one statement, and so in one round trip.

A step is recorded four times on its way: the money for its call is held, its answer, its tool calls and their results
are recorded. All of that stands between an answer of the model and its next question, for every step of every task
of a worker. As transactions of single rows it was 24 round trips.

Every statement but the first begins with `held`, which locks the task's row and proves the lease: without that row
the statement does nothing at all. A repeat (the answer to the first was lost, and it may still be under way) waits for
that lock. Then it finds what is recorded: `on conflict`, and the `where` of an update, look at what is committed by
then and not at the statement's snapshot. So `last_seq` counts exactly the events that are stored.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from infra.tasks.log import Draft, TaskRow, Transaction, checked, events_of
from infra.tasks.transitions import Lease


def _statement(sql: str, *json_names: str) -> TextClause:
    return text(sql).bindparams(*(bindparam(name, type_=JSONB(none_as_null=True)) for name in json_names))


RESERVE = _statement("""
with held as (
    update tasks set reserved_usd = reserved_usd + :amount
    where id = :task_id and lease_token = :token and spent_usd + reserved_usd + :amount <= budget_usd
    returning id, spent_usd
), called as (
    insert into model_calls (id, task_id, attempt, step, try, model, state, reserved_usd)
    select :call_id, held.id, :attempt, :step, 1 + coalesce(
        (select max(try) from model_calls where task_id = :task_id and step = :step), 0
    ), :model, 'reserved', :amount
    from held
    returning try
)
select called.try, held.spent_usd from held, called
""")
"""No row: the lease is gone, or the budget does not cover the hold. A unique violation: the same step, meanwhile."""

RECORD_STEP = _statement(
    """
with held as (
    select id from tasks where id = :task_id and lease_token = :token for no key update
), stored as (
    insert into steps (task_id, step, attempt, user_turn, response)
    select held.id, :step, :attempt, :user_turn, :response from held
    on conflict do nothing
    returning step
), said as (
    insert into messages (id, task_id, role, text, step)
    select :message_id, :task_id, 'assistant', cast(:text as text), stored.step from stored
    where cast(:text as text) <> ''
), read as (
    update messages set step = :step
    where task_id = :task_id and id = any(:inbox) and step is null and exists (select from stored)
    returning id
), settled as (
    update model_calls set state = 'settled', cost_usd = :cost, usage = :usage, ended_at = now()
    where id = :call_id and state = 'reserved' and exists (select from held)
    returning reserved_usd
), changed as (
    update tasks set
        reserved_usd = tasks.reserved_usd - coalesce((select settled.reserved_usd from settled), 0),
        spent_usd = spent_usd + :cost * (select count(*) from settled),
        unread = unread - (select count(*) from read),
        last_seq = last_seq + :events * (select count(*) from stored),
        last_step = greatest(last_step, :step),
        deaths = case when exists (select from stored) then 0 else deaths end
    where id = :task_id and lease_token = :token and exists (select from held)
    returning *
), logged as (
    insert into events (task_id, seq, type, data, at)
    select changed.id, changed.last_seq - :events + draft.position, draft.value ->> 0, draft.value -> 1, :at
    from changed, stored, jsonb_array_elements(:drafts) with ordinality as draft (value, position)
)
select changed.*, exists (select from stored) as is_news from changed
""",
    "user_turn",
    "response",
    "usage",
    "drafts",
)

RECORD_CALLS = _statement(
    """
with held as (
    select id from tasks where id = :task_id and lease_token = :token for no key update
), fresh as (
    insert into tool_calls (task_id, step, index, tool_use_id, tool_name, input)
    select held.id, :step, call.index, call.tool_use_id, call.event ->> 'tool', call.event -> 'args'
    from held, jsonb_to_recordset(:calls) as call (index int, tool_use_id text, event jsonb)
    on conflict do nothing
    returning index
), changed as (
    update tasks set last_seq = last_seq + (select count(*) from fresh)
    where id = :task_id and lease_token = :token and exists (select from held)
    returning *
), logged as (
    insert into events (task_id, seq, type, data, at)
    select
        changed.id,
        changed.last_seq - (select count(*) from fresh) + row_number() over (order by index),
        'tool_call',
        call.event,
        :at
    from changed, fresh join jsonb_to_recordset(:calls) as call (index int, event jsonb) using (index)
)
select changed.*, array(select index from fresh order by index) as fresh from changed
""",
    "calls",
)

RECORD_RESULT = _statement(
    """
with held as (
    select id from tasks where id = :task_id and lease_token = :token for no key update
), done as (
    update tool_calls set output = :output, is_error = :is_error, truncated = :truncated,
        duration_ms = :duration_ms, tree = :tree, finished_at = now()
    where task_id = :task_id and step = :step and index = :index and output is null and exists (select from held)
    returning index
), kept as (
    insert into trees (id, task_id, step, index, tree, parent, pack)
    select :tree_id, :task_id, :step, done.index, :tree, :parent, :pack from done where :has_pack
), changed as (
    update tasks set last_seq = last_seq + :events * (select count(*) from done)
    where id = :task_id and lease_token = :token and exists (select from held)
    returning *
), logged as (
    insert into events (task_id, seq, type, data, at)
    select changed.id, changed.last_seq - :events + draft.position, draft.value ->> 0, draft.value -> 1, :at
    from changed, done, jsonb_array_elements(:drafts) with ordinality as draft (value, position)
)
select changed.*, exists (select from done) as is_news from changed
""",
    "drafts",
)


def execute(tx: Transaction, lease: Lease, statement: TextClause, **values: Any) -> TaskRow | None:
    """The row that the statement selects; None when it did nothing."""
    return tx.connection.execute(statement, {"task_id": lease.task_id, "token": lease.token, **values}).one_or_none()


def execute_with_events(
    tx: Transaction, lease: Lease, statement: TextClause, drafts: list[tuple[str, dict[str, Any]]], **values: Any
) -> TaskRow | None:
    """As `execute`, for a statement that stores `drafts` as events unless `is_news` in its row is false."""
    at = datetime.now(UTC)
    stored = [[type_, checked(type_, data)] for type_, data in drafts]
    row = execute(tx, lease, statement, drafts=stored, events=len(drafts), at=at, **values)
    if row is not None and row.is_news:
        events: list[Draft] = [*drafts]
        tx.events += events_of(row, events, at)
    return row
