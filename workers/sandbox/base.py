"""The protocol of sandboxes, its guarantees, and how starting one goes wrong.

Both drivers pass one suite, `tests/contract/test_sandbox.py`: what is promised here is tested there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from infra.errors import TaskFailedError, UnavailableError

Kind = Literal["docker", "local"]

KILL_S = 2.0
"""A killed sandbox is dead within this time, unless its engine does not answer."""


class EngineUnavailableError(UnavailableError):
    """Start the Docker Engine of this worker host (`docker version` must show a server), or give this user its socket.
    The task can be tried again: nothing of it was lost."""

    code = "engine_unavailable"


class ImageMissingError(TaskFailedError):
    """Build the agent image with `farhand image`, or name another one in FARHAND_AGENT_IMAGE; then retry the task."""

    code = "image_missing"


class SandboxStartError(TaskFailedError):
    """Correct what the message names (`farhand doctor` checks the worker host), then retry the task."""

    code = "sandbox_start_failed"


@dataclass(frozen=True)
class SandboxSpec:
    """What a sandbox is started from. No task in it: a warm one does not know its task yet.

    `directory` comes from `directory.make` and holds `link/` and `in/objects/`. `bundle` is the runtime, as
    `agent_runtime.bundle.write_bundle` returns it.
    """

    id: str
    directory: Path
    bundle: Path


@dataclass(frozen=True)
class Exit:
    """How the first process of a sandbox ended; nothing of the sandbox runs any more.

    `code` is its exit code, 128 + n after signal n, None when nobody can tell any more. `oom` says that the kernel
    killed for want of memory (a local sandbox cannot tell). `detail` is the end of what the runtime wrote for
    diagnosis, at most `DETAIL_BYTES`; empty for a sandbox that ended well or was killed by us.
    """

    code: int | None
    oom: bool
    detail: str


DETAIL_BYTES = 4096


class Sandbox(Protocol):
    """One running sandbox, or what is left of it. It outlives its worker: a successor finds it by its id."""

    @property
    def id(self) -> str: ...

    def wait(self, timeout: float) -> Exit | None:
        """How it ended, or None when it still runs after `timeout` seconds. Does not poll; any number may wait."""

    def kill(self) -> None:
        """Dead when this returns, every process of it, within `KILL_S`. Killing a dead one does nothing.

        Raises:
            EngineUnavailableError: nobody can tell whether it is dead. It never returns without being sure.
        """

    def remove(self) -> None:
        """No container, process or file of it is left when this returns, in whatever state it was. Idempotent.

        Raises:
            EngineUnavailableError: the container may still be there; its files are gone. `Driver.remove` does the rest.
        """


class Driver(Protocol):
    """Starts sandboxes of one kind on this host, and finds those that a dead worker left: they run on without it.
    Safe for many threads."""

    kind: Kind

    def check(self) -> None:
        """Raises ConfigurationError when sandboxes cannot be started here, with what to do about it."""

    def start(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox that runs `supervise`. Whoever listens on its link does so already. Nothing is left on failure.

        Raises:
            EngineUnavailableError: worth another try, on any host.
            ImageMissingError, SandboxStartError: another try meets the same.
        """

    def running(self) -> set[str]:
        """Ids of this deployment's sandboxes that run on this host now, whoever started them.

        Raises EngineUnavailableError.
        """

    def find(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox that another process has started from `spec`. One that runs no more has ended: `wait` says so."""

    def source(self) -> str:
        """What a sandbox that is started now is made from: equal as long as that is the same. For `docker` the id that
        the image's name points to.

        Raises:
            EngineUnavailableError, ImageMissingError, SandboxStartError
        """

    def leftovers(self) -> list[str]:
        """Ids of all sandboxes of this deployment on this host, running or not, and of directories without one.

        Raises EngineUnavailableError.
        """

    def remove(self, sandbox_id: str) -> None:
        """As `Sandbox.remove`, for any id of this deployment, and for ids that never were."""

    def close(self) -> None:
        """Gives back connections. Sandboxes run on."""
