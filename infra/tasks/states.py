"""The states of a task.

    pending ──► running ──► completed | failed | cancelled
       ▲          │  └────► waiting ──► pending | failed | cancelled
       │          ▼
       ├── worker lost or handed over (the next claim is attempt n+1)
       └── completed | failed | cancelled, by a message of the user or a retry

Who may write: `pending → running` the worker that claims; out of `running` the holder of the lease token, or the
sweep when that worker is gone; everything else the user, through the API. Each is one statement in `transitions`.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    PENDING = "pending"
    """Stored, and nobody works on it: it waits for a free worker, or for its turn under its user's limit."""

    RUNNING = "running"
    """One worker holds its lease token and nobody else may write for it."""

    WAITING = "waiting"
    """The agent asked the user something and gave its worker back; the answer makes it pending."""

    COMPLETED = "completed"
    """The agent ended by itself and its changes, if any, are on the task's branch."""

    FAILED = "failed"
    """It ended without the agent's word; `error` says why and what to do. The work so far is kept."""

    CANCELLED = "cancelled"
    """The user ended it. The work so far is kept."""


OPEN = (Status.PENDING, Status.RUNNING, Status.WAITING)
TERMINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
