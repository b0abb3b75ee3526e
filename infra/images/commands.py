"""Runs the docker client and Debian's tools: every call has a deadline, and leaves no process behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import IO

from infra.errors import FarhandError

SHOWN_LINES = 15


class ImageBuildError(FarhandError):
    """Correct what the message names, then run `./farhand image` again; what was finished is not done twice."""

    code = "image_build_failed"


def run(
    *command: str,
    deadline_s: float,
    stdin: IO[bytes] | None = None,
    env: dict[str, str] | None = None,
    hint: str | None = None,
    code: str | None = None,
) -> str:
    """The command's standard output, stripped. Raises ImageBuildError with the end of its output otherwise."""
    try:
        # A session of its own, so that what the command starts can be ended along with it.
        process = subprocess.Popen(
            command,
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ImageBuildError(f"`{command[0]}` is not installed.", hint=hint, code=code) from None
    with process:
        try:
            output, errors = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            _end(process)
            message = f"`{_shown(command)}` did not end within {deadline_s:.0f} s."
            raise ImageBuildError(message, hint=hint, code=code) from None
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        tail = _tail(output + errors)
        message = f"`{_shown(command)}` ended with {process.returncode}:\n{tail}"
        raise ImageBuildError(message, hint=hint, code=code)
    return output.decode(errors="replace").strip()


def succeeds(*command: str, deadline_s: float) -> bool:
    """Whether the command could be run and ended well."""
    try:
        run(*command, deadline_s=deadline_s)
    except ImageBuildError:
        return False
    return True


def require_root(*, hint: str) -> None:
    """Raises ImageBuildError (`root_needed`) unless the process may chroot and make device files."""
    if os.geteuid() != 0:
        raise ImageBuildError("debootstrap must be run as root.", hint=hint, code="root_needed")


def private_mounts() -> tuple[str, ...]:
    """A prefix that gives a command its own mount table, so that its mounts vanish with it, however it ends."""
    if shutil.which("unshare") and succeeds("unshare", "--mount", "true", deadline_s=10):
        return ("unshare", "--mount")
    return ()


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _shown(command: tuple[str, ...]) -> str:
    return " ".join(command[:4]) + (" …" if len(command) > 4 else "")


def _tail(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[-SHOWN_LINES:])
