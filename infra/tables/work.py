"""What is done: tasks, their attempts, what these recorded, and the workers that hold them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from infra.tables.base import Base, Big, CreatedAt, Id, Json, Moment, Usd

_ZERO = sql("0")


class Worker(Base):
    """A worker process. Its row is the lease of every task it runs: alive while `alive_until` is in the future."""

    __tablename__ = "workers"

    id: Mapped[Id]
    name: Mapped[str]
    protocol_version: Mapped[int]
    slots: Mapped[int]
    alive_until: Mapped[Moment]
    swept_at: Mapped[Moment | None]
    """Set with the requeueing of its tasks: from then on this id owns nothing."""
    left_at: Mapped[Moment | None]
    """Set as it leaves on TERM: it beats no more, and what becomes of its tasks is nobody's death."""
    runtime: Mapped[str | None]
    """Which runtime its sandboxes have. Null: of a version that did not say; nobody adopts those."""
    started_at: Mapped[CreatedAt]

    __table_args__ = (Index("ix_workers_unswept", "alive_until", postgresql_where=sql("swept_at is null")),)


class Task(Base):
    """What the user asked for: a conversation on one repo and one branch.

    `lease_token` is the authority to write: every write of a worker is predicated on it.
    """

    __tablename__ = "tasks"

    id: Mapped[Id]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    repo_url: Mapped[str]
    prompt: Mapped[str]
    agent: Mapped[str]
    model: Mapped[str]
    base_branch: Mapped[str | None]
    """Null: the default branch of the repo, found out by the first attempt."""
    status: Mapped[str] = mapped_column(server_default=sql("'pending'"))

    # Ownership
    attempt: Mapped[int] = mapped_column(server_default=_ZERO)
    lease_token: Mapped[UUID | None]
    worker_id: Mapped[UUID | None] = mapped_column(ForeignKey("workers.id"))
    enqueued_at: Mapped[Moment | None]
    """When a wake-up was last sent for it; null when there is none: infra.tasks.turns sends one."""
    not_before: Mapped[Moment | None]
    """A pending task rests until then, after a death of its sandbox or worker."""
    deaths: Mapped[int] = mapped_column(server_default=_ZERO)
    """Deaths of sandboxes and workers since the last recorded step."""
    cancel_requested_at: Mapped[Moment | None]
    cancel_requested_by: Mapped[str | None]

    # The event log
    last_seq: Mapped[Big] = mapped_column(server_default=_ZERO)
    last_step: Mapped[int] = mapped_column(server_default=_ZERO)
    unread: Mapped[int] = mapped_column(server_default=_ZERO)
    """User messages that no recorded step contains."""

    # Money
    budget_usd: Mapped[Usd]
    spent_usd: Mapped[Usd] = mapped_column(server_default=_ZERO)
    reserved_usd: Mapped[Usd] = mapped_column(server_default=_ZERO)

    # Git
    base_sha: Mapped[str | None]
    head_sha: Mapped[str | None]
    """The commit that the remote has on the task's branch, as far as we know."""
    push_intent: Mapped[Json | None]
    """`{sha, expected}`: what this task is about to push, and what must be there before (null: no branch)."""

    # The pull request: infra.tasks.pull_requests has the states, and who may write them
    pull_request: Mapped[Json | None]
    """`{url, number}` of the one that is known."""
    pull_request_requested_at: Mapped[Moment | None]
    """Set while somebody wants it to be opened or brought up to date."""
    pull_request_token: Mapped[UUID | None]
    """Of the worker that does so now."""
    pull_request_not_before: Mapped[Moment | None]
    """Nobody may take it up (again) before."""
    pull_request_tries: Mapped[int] = mapped_column(server_default=_ZERO)

    # The result
    final_message: Mapped[str | None]
    error: Mapped[Json | None]
    created_at: Mapped[CreatedAt]
    started_at: Mapped[Moment | None]
    completed_at: Mapped[Moment | None]

    __table_args__ = (
        CheckConstraint("status in ('pending','running','waiting','completed','failed','cancelled')", name="status"),
        CheckConstraint("(status = 'running') = (lease_token is not null and worker_id is not null)", name="lease"),
        CheckConstraint(
            "pull_request_token is null"
            " or (pull_request_requested_at is not null and pull_request_not_before is not null)",
            name="pull_request",
        ),
        Index("ix_tasks_user_id_id", "user_id", "id"),
        Index("ix_tasks_project_id_id", "project_id", "id"),
        Index("ix_tasks_held", "worker_id", postgresql_where=sql("worker_id is not null")),
        Index(
            "ix_tasks_pull_request",
            "pull_request_requested_at",
            postgresql_where=sql("pull_request_requested_at is not null"),
        ),
        Index(
            "ix_tasks_open",
            "status",
            "user_id",
            "id",
            postgresql_where=sql("status in ('pending','running','waiting')"),
        ),
        Index("ix_tasks_cancel_requested", "id", postgresql_where=sql("cancel_requested_at is not null")),
    )


class Attempt(Base):
    """One worker's hold on a task."""

    __tablename__ = "attempts"

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[UUID | None] = mapped_column(ForeignKey("workers.id", ondelete="SET NULL"), index=True)
    """Null once the row of its worker, long dead, is gone."""
    sandbox_id: Mapped[str | None]
    sandbox_kind: Mapped[str | None]
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[Moment | None]
    outcome: Mapped[str | None]
    """completed, failed, cancelled, waiting, handed_over, worker_lost, sandbox_died"""


class Step(Base):
    """A recorded model call: `{user turn as sent, response}`. Never asked for again (G3)."""

    __tablename__ = "steps"

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    user_turn: Mapped[Json | None]
    response: Mapped[Json]
    created_at: Mapped[CreatedAt]


class Message(Base):
    """A message of the conversation, as text for people. `step` is null while no recorded step contains it."""

    __tablename__ = "messages"

    id: Mapped[Id]
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    role: Mapped[str]
    text: Mapped[str]
    step: Mapped[int | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("role in ('user','assistant')", name="role"),
        Index("ix_messages_task_id_id", "task_id", "id"),
        Index("ix_messages_unread", "task_id", "id", postgresql_where=sql("role = 'user' and step is null")),
    )


class ToolCall(Base):
    """A tool call, recorded before it starts; `output` is null until its result is recorded."""

    __tablename__ = "tool_calls"

    task_id: Mapped[UUID] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    tool_use_id: Mapped[str]
    tool_name: Mapped[str]
    input: Mapped[Json]
    output: Mapped[str | None]
    is_error: Mapped[bool | None]
    truncated: Mapped[bool | None]
    duration_ms: Mapped[int | None]
    tree: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Moment | None]

    __table_args__ = (ForeignKeyConstraint(["task_id", "step"], ["steps.task_id", "steps.step"], ondelete="CASCADE"),)


class Tree(Base):
    """The work tree after a tool call that changed it: the objects that it has over its parent, as a git pack."""

    __tablename__ = "trees"

    id: Mapped[Id]
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    step: Mapped[int]
    index: Mapped[int]
    tree: Mapped[str]
    parent: Mapped[str]
    pack: Mapped[bytes]
    created_at: Mapped[CreatedAt]

    __table_args__ = (UniqueConstraint("task_id", "step", "index"),)


class Patch(Base):
    """What a task changed so far against its base, as a unified diff: kept whatever became of the push."""

    __tablename__ = "patches"

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    base_sha: Mapped[str]
    tree: Mapped[str]
    diff: Mapped[bytes]
    files_changed: Mapped[int]
    insertions: Mapped[int]
    deletions: Mapped[int]
    created_at: Mapped[CreatedAt]


class Event(Base):
    """One durable fact of a task. `seq` is 1, 2, 3 … without holes."""

    __tablename__ = "events"

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[Big] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[Json]
    at: Mapped[CreatedAt]


class ModelCall(Base):
    """One request to a model, and its money.

    state: `reserved` while it is in the air, then `settled` (usage known), `released` (provably not accepted) or
    `lost` (cut off: the whole hold counts as spent).
    """

    __tablename__ = "model_calls"

    id: Mapped[Id]
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    step: Mapped[int]
    try_: Mapped[int] = mapped_column("try")
    model: Mapped[str]
    state: Mapped[str]
    reserved_usd: Mapped[Usd]
    cost_usd: Mapped[Usd | None]
    usage: Mapped[Json | None]
    request_id: Mapped[str | None]
    error: Mapped[str | None]
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[Moment | None]

    __table_args__ = (
        CheckConstraint("state in ('reserved','settled','released','lost')", name="state"),
        UniqueConstraint("task_id", "step", "try"),
        Index("ix_model_calls_open", "task_id", postgresql_where=sql("state = 'reserved'")),
    )


class EgressConnection(Base):
    """One connection that a sandbox made, or was refused, through its link: what its owner can look up later.

    It is written before anything goes out, and again when the connection ends; an open one of an attempt that is over
    died with its worker. `reason`: how it ended (`done`, `idle`, `sni_differs` …), null while it is open.
    """

    __tablename__ = "egress_connections"

    id: Mapped[Id]
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    host: Mapped[str]
    """As asked for, in normal form; empty where the request was none."""
    port: Mapped[int]
    address: Mapped[str | None]
    """The checked address that was connected to."""
    method: Mapped[str]
    """CONNECT, HTTP, or empty where the request was none."""
    decision: Mapped[str]
    reason: Mapped[str | None]
    bytes_up: Mapped[Big]
    bytes_down: Mapped[Big]
    connections: Mapped[int]
    """How many this record stands for: 1, or all that were refused after there were too many to record."""
    started_at: Mapped[Moment]
    ended_at: Mapped[Moment | None]

    __table_args__ = (
        CheckConstraint("decision in ('allowed','refused')", name="decision"),
        Index("ix_egress_connections_task_id_id", "task_id", "id"),
    )
