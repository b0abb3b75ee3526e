"""One tree of errors. Each has a stable `code`, a message for a person and a hint that says what to do next.

A class docstring is the hint that is shown when none is given. Which HTTP status a class means is said in one
place, the API's error map.
"""

from __future__ import annotations

import inspect

from agent_runtime.protocol import Failure


class FarhandError(Exception):
    """Look into the service's log; if it happens again, report it."""

    code = "internal_error"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or " ".join((inspect.getdoc(type(self)) or "").split())
        self.code = code or type(self).code

    def as_failure(self) -> Failure:
        """The error as it stands in `tasks.error`, in the `failed` event and in a problem document."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InvalidInputError(FarhandError):
    """Correct the field that the message names and send the request again."""

    code = "invalid_input"


class NotFoundError(FarhandError):
    """Check the id, and that you are logged in as its owner."""

    code = "not_found"


class ConflictError(FarhandError):
    """Read the current state and decide again."""

    code = "conflict"


class UnauthenticatedError(FarhandError):
    """Log in again, or send a valid API token as `Authorization: Bearer …`."""

    code = "unauthenticated"


class ForbiddenError(FarhandError):
    """Ask the operator of this deployment."""

    code = "forbidden"


class RepoRefusedError(InvalidInputError):
    """Use the https address of a public host, or ask the operator to list the host in FARHAND_ALLOWED_REPO_HOSTS."""

    code = "repo_refused"


class ConfigurationError(FarhandError):
    """Correct the setting that the message names, then start again. `farhand doctor` checks most of them."""

    code = "configuration"


class UnavailableError(FarhandError):
    """Try again in a few seconds; nothing was changed."""

    code = "unavailable"


class AuthorityLostError(FarhandError):
    """Nothing is to be done: another attempt owns the task now and goes on from the last recorded step."""

    code = "authority_lost"


class TaskFailedError(FarhandError):
    """Correct what the message names, then retry the task."""

    code = "task_failed"


class BudgetExceededError(TaskFailedError):
    """Retry the task with a larger budget_usd; the work so far is kept on its branch."""

    code = "budget_exceeded"
