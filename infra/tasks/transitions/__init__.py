"""Every change of a task's status. Each is one statement, guarded by the state that it expects and, when a worker
makes it, by the lease token; it appends its event in the same transaction.

A function that returns None (or False) changed nothing: somebody else was first, and that is not an error.

by_user      create, cancel, message, retry, delete: what comes through the API
by_worker    claim, complete, fail, confirm a cancel, give back: what an attempt does
by_sweep     take back, cancel, adopt: what becomes of the tasks of a worker that is gone
lease        the authority that a claim gives, and what every end of an attempt has in common

Callers import from here, not from the parts. A test sees to it that no other module writes a task's status or owner.
"""

from infra.tasks.transitions.by_sweep import ADOPTED, adopt, cancel_unowned, take_back
from infra.tasks.transitions.by_user import NewTask, add_message, create, delete, request_cancel, retry
from infra.tasks.transitions.by_worker import (
    claim,
    complete,
    confirm_cancelled,
    fail,
    give_back_after_death,
    hand_over,
    wait_out,
)
from infra.tasks.transitions.lease import MAX_DEATHS, POISONED, Lease, hold, in_seconds

__all__ = [
    "ADOPTED",
    "MAX_DEATHS",
    "POISONED",
    "Lease",
    "NewTask",
    "add_message",
    "adopt",
    "cancel_unowned",
    "claim",
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
    "take_back",
    "wait_out",
]
