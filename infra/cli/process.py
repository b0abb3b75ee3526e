"""One child process: started in a session of its own, ended with us, and found again by our successor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
LOG_BYTES = 10 * 2**20
"""A log file that is larger when its process starts becomes `.log.1`."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run, and how to ask whether it answers (`ready` returns within a few seconds and never raises)."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]
    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_deadline_s: float = 8.0
    sockets: tuple[int, ...] = ()
    """File descriptors that it inherits."""


def spawn(service: Service, log: Path) -> subprocess.Popen[bytes]:
    """Start a service; what it prints is appended to `log`.

    Call it in the main thread: on Linux the child gets its stop signal when the thread that started it ends, however
    that happens. Its own session keeps Ctrl-C and the hang-up of our terminal away from it.
    """
    with _open_log(log) as output:
        return subprocess.Popen(
            service.command,
            cwd=service.directory,
            env=dict(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=service.user,
            group=service.user,
            extra_groups=None if service.user is None else [],
            pass_fds=service.sockets,
            start_new_session=True,
            preexec_fn=end_with_parent(service.stop_signal),  # noqa: PLW1509  (no other thread runs by then)
        )


def _open_log(log: Path) -> IO[bytes]:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    log.touch(mode=0o600)
    return log.open("ab")


def end_with_parent(stop_signal: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """For `preexec_fn`: the child gets `stop_signal` when the thread that started it ends (Linux only)."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # it ended before we asked to be told
            os._exit(1)

    return arm


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from a later one with the same number by when it started."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        started = _start_of(pid)
        return Identity(pid, started) if started else None

    @classmethod
    def read(cls, file: Path) -> Identity | None:
        pid, _, started = file.read_text().strip().partition(" ")
        return cls(int(pid), started) if pid.isdigit() and started else None

    def write(self, file: Path) -> None:
        file.write_text(f"{self.pid} {self.started}\n")

    def is_alive(self) -> bool:
        return _start_of(self.pid) == self.started


def _start_of(pid: int) -> str:
    """When a process started, as this system tells it; empty when it has ended."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return ""
        state, *fields = stat.rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return "" if state in "ZX" else f"{boot} {fields[18]}"
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return " ".join(listed.stdout.split())


def kill_session(pid: int, sig: signal.Signals) -> None:
    """Signal a child and what it started in its process group; nothing happens when all of it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, sig)
