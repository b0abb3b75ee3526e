"""Every change of a task's status. Each is one statement, guarded by the state that it expects and, when a worker
makes it, by the lease token; it appends its event in the same transaction.

A function that returns None (or False) changed nothing: somebody else was first, and that is not an error.

by_user      create, cancel, message, retry, delete: what comes through the API
by_worker    claim, complete, fail, confirm a cancel, give back: what an attempt does
lease        the authority that a claim gives, and what every end of an attempt has in common

What happens to the tasks of a lost worker stands in `infra.tasks.ownership`. Callers import from here, not from the
parts.
"""

from infra.tasks.transitions.by_user import NewTask, add_message, create, delete, request_cancel, retry
from infra.tasks.transitions.by_worker import (
    claim,
    complete,
    confirm_cancelled,
    fail,
    give_back_after_death,
    hand_over,
)
from infra.tasks.transitions.lease import RELEASED, Lease, close_attempt, hold, in_seconds

__all__ = [
    "RELEASED",
    "Lease",
    "NewTask",
    "add_message",
    "claim",
    "close_attempt",
    "complete",
    "confirm_cancelled",
    "create",
    "delete",
    "fail",
    "give_back_after_death",
    "hand_over",
    "hold",
    "in_seconds",
    "request_cancel",
    "retry",
]
