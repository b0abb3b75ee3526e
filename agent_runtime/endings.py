"""How a run ends: raised where it is found out, so that nothing in between has to pass it on.

An `Ending` is told to the worker by POST /finish. A `Stop` is not: the process exits with its code.
"""

from __future__ import annotations

from agent_runtime.protocol import Failure

EXIT_FINISHED = 0
EXIT_CRASHED = 1
EXIT_USAGE = 2


class Ending(Exception):
    """The run is over, and the worker is told how."""

    def __init__(self, final_message: str, error: Failure | None) -> None:
        super().__init__(error["message"] if error else final_message)
        self.final_message = final_message
        self.error = error


class Completed(Ending):
    """The model ended its turn and no user message is waiting."""

    def __init__(self, final_message: str) -> None:
        super().__init__(final_message, None)


class Failed(Ending):
    """The run cannot go on: `code` is stable, `message` says what happened, `hint` what to do about it."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__("", Failure(code=code, message=message, hint=hint))


class Stop(Exception):
    """End at once and say nothing more to the worker. It sees the exit code."""

    exit_code = EXIT_CRASHED


class Cancelled(Stop):
    """A reply said that the task is cancelled."""

    exit_code = 3


class Gone(Stop):
    """410: this attempt no longer owns the task. Another one does, so write nothing more."""

    exit_code = 4


class LinkLost(Stop):
    """The worker could not be reached for too long. Nobody would learn how this run ends."""

    exit_code = 5


class FinishRefused(Stop):
    """The worker refuses how the run ended, and there is nothing to go on with. See its log for the reason."""

    exit_code = 6


class WrongProtocol(Stop):
    """Worker and sandbox are of different versions. The worker starts a sandbox with its own runtime instead."""

    exit_code = 7


class SandboxBroken(Stop):
    """The helper could not be started again, though all processes were killed. The task needs a new sandbox."""

    exit_code = 8
