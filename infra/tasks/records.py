"""What an attempt records, and the job that the next one gets from it (G3).

Every write proves the lease by locking or updating the task's row, so it either happens before another attempt
took over or not at all. A repeat of a write changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from agent_runtime.protocol import Call, Calls, InboxMessage, RecordedCall, Result, StepRecord, call_id
from infra.errors import InvalidInputError, TaskFailedError
from infra.ids import new_id
from infra.tables import Attempt, Message, Patch, Step, Task, ToolCall, Tree
from infra.tasks import step_writes
from infra.tasks.budget import Payment
from infra.tasks.log import Data, Draft, TaskRow, Transaction, checked, events_of
from infra.tasks.transitions import Lease, hold


@dataclass(frozen=True, slots=True)
class NewStep:
    """A model call that is over: the user turn as sent, the response as received, and its events."""

    step: int
    user_turn: dict[str, Any] | None
    response: dict[str, Any]
    text: str
    inbox: tuple[UUID, ...]
    events: tuple[tuple[str, Data], ...]
    paid: Payment | None = None


def record_sandbox(tx: Transaction, lease: Lease, sandbox_id: str) -> None:
    """Name the sandbox of an attempt, before it is started: so that whoever cleans up knows whose it is.

    One statement, so `tx` may be a single-statement one. Raises AuthorityLostError.
    """
    held = select(Task.id).where(*lease.held).with_for_update(key_share=True).cte("held")
    named = tx.connection.execute(
        update(Attempt)
        .where(Attempt.task_id == held.c.id, Attempt.number == lease.attempt)
        .values(sandbox_id=sandbox_id)
    ).rowcount
    if not named:
        hold(tx, lease)


def record_base(tx: Transaction, lease: Lease, *, base_branch: str, base_sha: str) -> None:
    """Fix what the task's branch starts from; the first attempt finds it out, later ones keep it.

    One statement, so `tx` may be a single-statement one. Raises AuthorityLostError.
    """
    fixed = tx.connection.execute(
        update(Task).where(*lease.held, Task.base_sha.is_(None)).values(base_branch=base_branch, base_sha=base_sha)
    ).rowcount
    if not fixed:
        hold(tx, lease)  # a repeat


def append_event(tx: Transaction, lease: Lease, *drafts: Draft) -> None:
    """Events without other writes, such as `build_progress` or `error`. Raises AuthorityLostError."""
    _advance(tx, lease, *drafts)


def record_step(tx: Transaction, lease: Lease, new: NewStep) -> bool:
    """Record a model response with its events, and settle what it cost. False when that step is recorded already.

    One statement, as the two below, so `tx` may be a single-statement one. Raises AuthorityLostError.
    """
    paid = new.paid or Payment(None, Decimal(0), None)
    row = step_writes.execute_with_events(
        tx,
        lease,
        step_writes.RECORD_STEP,
        list(new.events),
        step=new.step,
        attempt=lease.attempt,
        user_turn=new.user_turn,
        response=new.response,
        message_id=new_id(),
        text=new.text,
        inbox=list(new.inbox),
        call_id=paid.call_id,
        cost=paid.cost,
        usage=paid.usage,
    )
    if row is None:
        hold(tx, lease)
        return False
    return bool(row.is_news)


def record_calls(tx: Transaction, lease: Lease, calls: Calls) -> TaskRow:
    """Record the tool calls of a step, before any of them starts. Raises AuthorityLostError."""
    events = {call["index"]: checked("tool_call", _call_event(calls["step"], call)) for call in calls["calls"]}
    rows = [
        {"index": call["index"], "tool_use_id": call["tool_use_id"], "event": events[call["index"]]}
        for call in calls["calls"]
    ]
    at = datetime.now(UTC)
    row = step_writes.execute(tx, lease, step_writes.RECORD_CALLS, step=calls["step"], calls=rows, at=at)
    if row is None:
        return hold(tx, lease)
    tx.events += events_of(row, [("tool_call", events[index]) for index in row.fresh], at)
    return row


def record_result(tx: Transaction, lease: Lease, result: Result, pack: bytes, *, limit: int) -> TaskRow:
    """Record one tool result and, when it changed the work tree, the pack that leads to the new one.

    `limit` bounds the bytes of all packs that are kept for the task, which are those since its last push.

    Raises:
        AuthorityLostError
        InvalidInputError: the call was never recorded.
        TaskFailedError: `work_too_large`.
    """
    has_pack = result["tree"] is not None and result["tree"] != result["parent"]
    if has_pack:
        _refuse_too_much(tx, lease, result, len(pack), limit)
    row = step_writes.execute_with_events(
        tx,
        lease,
        step_writes.RECORD_RESULT,
        _result_events(result),
        step=result["step"],
        index=result["index"],
        output=result["output"],
        is_error=result["is_error"],
        truncated=result["truncated"],
        duration_ms=result["duration_ms"],
        tree=result["tree"],
        has_pack=has_pack,
        tree_id=new_id(),
        parent=result["parent"],
        pack=pack,
    )
    if row is None:
        return hold(tx, lease)
    if not row.is_news:
        _refuse_unknown_call(tx, lease, result)
    return row


def _refuse_too_much(tx: Transaction, lease: Lease, result: Result, more: int, limit: int) -> None:
    """Nobody else adds to a task's packs under this lease; a repeat counts its own only once."""
    is_this = (Tree.step == result["step"]) & (Tree.index == result["index"])
    kept = select(func.coalesce(func.sum(func.octet_length(Tree.pack)), 0)).where(
        Tree.task_id == lease.task_id, ~is_this
    )
    if tx.connection.execute(kept).scalar_one() + more > limit:
        raise TaskFailedError(
            f"the task's changes, of all its steps together, are more than {limit:,} bytes",
            hint="The work before this step is kept. Have the agent keep large files out of git, in a directory that "
            ".gitignore names; or ask the operator to raise FARHAND_TASK_WORK_BYTES.",
            code="work_too_large",
        )


def _advance(tx: Transaction, lease: Lease, *drafts: Draft, values: dict[str, Any] | None = None) -> TaskRow:
    """The update that proves the lease: what the transaction wrote before it is rolled back with it.

    Raises AuthorityLostError.
    """
    return tx.advance(lease.held, *drafts, values=values) or hold(tx, lease)


def record_push_intent(tx: Transaction, lease: Lease, *, sha: str, expected: str | None) -> None:
    """Say what is about to be pushed, before it is. Raises AuthorityLostError."""
    intent = {"sha": sha, "expected": expected}
    _advance(tx, lease, values={"push_intent": intent})


def record_push(tx: Transaction, lease: Lease, *, sha: str, event: Draft) -> None:
    """The remote has `sha`. The packs that led to it are in a pushed commit now, and are dropped. Once."""
    is_news = Task.head_sha.is_distinct_from(sha)
    if tx.advance((*lease.held, is_news), event, values={"head_sha": sha, "push_intent": None}) is None:
        hold(tx, lease)  # a repeat
    tx.connection.execute(delete(Tree).where(Tree.task_id == lease.task_id))


def save_patch(
    tx: Transaction, lease: Lease, *, base_sha: str, tree: str, diff: bytes, counts: tuple[int, int, int]
) -> None:
    """Keep what the task changed; `counts` are files changed, insertions and deletions."""
    hold(tx, lease)
    files_changed, insertions, deletions = counts
    values = {
        "base_sha": base_sha,
        "tree": tree,
        "diff": diff,
        "files_changed": files_changed,
        "insertions": insertions,
        "deletions": deletions,
    }
    tx.connection.execute(
        upsert(Patch)
        .values(task_id=lease.task_id, **values)
        .on_conflict_do_update(index_elements=[Patch.task_id], set_={**values, "created_at": func.now()})
    )


def recorded_steps(connection: Connection, task_id: UUID) -> list[StepRecord]:
    """The conversation so far, in order."""
    rows = connection.execute(
        select(Step.step, Step.user_turn, Step.response).where(Step.task_id == task_id).order_by(Step.step)
    )
    return [{"step": row.step, "user_turn": row.user_turn, "response": row.response} for row in rows]


def recorded_calls(connection: Connection, task_id: UUID, step: int) -> list[RecordedCall]:
    """The announced calls of one step, with their results as far as they are recorded."""
    rows = connection.execute(
        select(ToolCall.index.label("position"), ToolCall.tool_use_id, ToolCall.output, ToolCall.is_error)
        .where(ToolCall.task_id == task_id, ToolCall.step == step)
        .order_by(ToolCall.index)
    )
    return [
        {
            "index": row.position,
            "tool_use_id": row.tool_use_id,
            "output": row.output,
            "is_error": bool(row.is_error),
        }
        for row in rows
    ]


def inbox(connection: Connection, task_id: UUID) -> list[InboxMessage]:
    """User messages that no recorded step contains, oldest first."""
    rows = connection.execute(
        select(Message.id, Message.text)
        .where(Message.task_id == task_id, Message.role == "user", Message.step.is_(None))
        .order_by(Message.id)
    )
    return [{"id": str(row.id), "text": row.text} for row in rows]


def trees(connection: Connection, task_id: UUID) -> Sequence[Any]:
    """The chain of recorded work trees, oldest first: rows of (tree, parent, pack)."""
    return connection.execute(
        select(Tree.tree, Tree.parent, Tree.pack, Tree.created_at)
        .where(Tree.task_id == task_id)
        .order_by(Tree.step, Tree.index)
    ).all()


def last_tree(connection: Connection, task_id: UUID) -> str | None:
    """The newest of `trees`, without its pack."""
    newest = select(Tree.tree).where(Tree.task_id == task_id).order_by(Tree.step.desc(), Tree.index.desc()).limit(1)
    tree: str | None = connection.execute(newest).scalar_one_or_none()
    return tree


def _call_event(step: int, call: Call) -> Data:
    return {"call_id": call_id(step, call["index"]), "step": step, "tool": call["tool"], "args": call["args"]}


def _result_events(result: Result) -> list[tuple[str, Data]]:
    events: list[tuple[str, Data]] = [
        (
            "tool_result",
            {
                "call_id": call_id(result["step"], result["index"]),
                "output": result["output"],
                "truncated": result["truncated"],
                "is_error": result["is_error"],
                "duration_ms": result["duration_ms"],
                "tree": result["tree"],
            },
        )
    ]
    if result["left_out"]:
        names = ", ".join(result["left_out"][:20])
        events.append(("error", {"code": "files_left_out", "message": f"too large to be kept: {names}"}))
    return events


def _refuse_unknown_call(tx: Transaction, lease: Lease, result: Result) -> None:
    step, index = result["step"], result["index"]
    known = select(ToolCall.index).where(
        ToolCall.task_id == lease.task_id, ToolCall.step == step, ToolCall.index == index
    )
    if tx.connection.execute(known).one_or_none() is None:
        raise InvalidInputError(f"a result for call {step}.{index}, which was never recorded")
