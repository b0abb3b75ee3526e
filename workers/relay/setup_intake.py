"""What a sandbox may hand over of its project's setup: only where one is to be built, and before any agent works."""

from __future__ import annotations

from typing import Protocol

from agent_runtime.protocol import SetupDone
from infra.errors import InvalidInputError


class SetupResult(Protocol):
    """Takes what a setup script left. `part` and `done` raise InvalidInputError and TaskFailedError."""

    def part(self, offset: int, data: bytes) -> None: ...

    def done(self, done: SetupDone) -> None: ...

    def over(self) -> None:
        """The loop does something else now: nothing more comes."""


class SetupIntake:
    """Open until `end`, unless there is nothing to take."""

    def __init__(self, result: SetupResult | None = None) -> None:
        self._result = result

    def part(self, offset: int, data: bytes) -> None:
        """Raises as `SetupResult.part`; InvalidInputError when it is over."""
        self._open().part(offset, data)

    def done(self, done: SetupDone) -> None:
        """Raises as `SetupResult.done`; InvalidInputError when it is over."""
        self._open().done(done)

    def end(self) -> None:
        """An agent works from here on: what others will get was taken before."""
        result, self._result = self._result, None
        if result is not None:
            result.over()

    def _open(self) -> SetupResult:
        if self._result is None:
            raise InvalidInputError("the setup is over")
        return self._result
