"""How one try of a model call fails."""

from __future__ import annotations

from infra.errors import TaskFailedError


class TryFailedError(Exception):
    """One try of a model call failed.

    accepted: the provider may have begun to work on it, so it may be billed.
    final: set when another try cannot help; what the task fails with.
    retry_after: seconds that the provider asked us to wait.
    """

    def __init__(
        self,
        reason: str,
        *,
        accepted: bool,
        final: TaskFailedError | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.accepted = accepted
        self.final = final
        self.retry_after = retry_after
        self.request_id = request_id
