"""The processes of a local sandbox, found in /proc: there is no container that would hold them together.

A process belongs to the sandbox whose work directory stands in its command line (supervisor, loop, helper) or in its
environment (commands); so does every descendant of such a process. The supervisor adopts orphans, so while it lives
a command cannot leave this family.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 0.005
DEADLINE_S = 5.0


class _Process(NamedTuple):
    pid: int
    parent: int
    marked: bool


def kill_all(work: Path) -> bool:
    """Kills every process of the sandbox with this work directory. False when some live on at the deadline.

    They are stopped first, until no new one shows up: what is stopped cannot fork while the others are killed.
    """
    deadline = time.monotonic() + DEADLINE_S
    while family := _family(work):
        if time.monotonic() > deadline:
            return False
        stopped: set[int] = set()
        while new := family - stopped:
            _signal(new, signal.SIGSTOP)
            stopped |= new
            family = _family(work)
        _signal(stopped, signal.SIGKILL)
        time.sleep(PATIENCE_S)  # for the kernel to end them: only a parent could wait
    return True


def leaders(works: Iterable[Path]) -> dict[Path, int]:
    """The first process (the supervisor) of each sandbox that runs, by its work directory."""
    wanted = {os.fsencode(work): work for work in works}
    found: defaultdict[Path, dict[int, int]] = defaultdict(dict)
    for pid in _pids() if wanted else ():
        try:
            work = next((wanted[word] for word in _read(pid, "cmdline").split(b"\0") if word in wanted), None)
            if work is not None and (status := _status(pid)) is not None:
                found[work][pid] = status
        except OSError:
            continue
    first = {work: [pid for pid, parent in family.items() if parent not in family] for work, family in found.items()}
    return {work: pids[0] for work, pids in first.items() if pids}


class Stranger:
    """A process that is no child of ours: its end can be waited for, its exit code is not ours to know."""

    def __init__(self, pid: int | None) -> None:
        try:
            self._descriptor = None if pid is None else os.pidfd_open(pid)
        except ProcessLookupError:
            self._descriptor = None

    def wait(self) -> None:
        """Returns once it has ended, at once if it was gone before. Called once."""
        if self._descriptor is None:
            return
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        waiting.poll()
        os.close(self._descriptor)


def threads_of(uid: int) -> int:
    """How many threads the user runs on this host, which is what RLIMIT_NPROC counts."""
    count = 0
    for pid in _pids():
        try:
            if Path(f"/proc/{pid}").stat().st_uid == uid:
                count += sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
        except OSError:  # ended meanwhile
            continue
    return count


def _family(work: Path) -> set[int]:
    processes = list(_processes(os.fsencode(work)))
    family = {process.pid for process in processes if process.marked}
    while children := {process.pid for process in processes if process.parent in family} - family:
        family |= children
    return family - {os.getpid()}


def _processes(work: bytes) -> Iterator[_Process]:
    for pid in _pids():
        try:
            parent = _status(pid)
            if parent is not None:
                yield _Process(pid, parent, _is_marked(pid, work))
        except OSError:
            continue


def _status(pid: int) -> int | None:
    """Its parent; None for the dead, who do not count, collected or not."""
    state, parent, *_ = _read(pid, "stat").rpartition(b")")[2].split()
    return None if state in b"ZX" else int(parent)


def _is_marked(pid: int, work: bytes) -> bool:
    try:
        arguments = _read(pid, "cmdline").split(b"\0")
        values = [variable.partition(b"=")[2] for variable in _read(pid, "environ").split(b"\0")]
    except PermissionError:  # another user's: none of ours
        return False
    return work in arguments or work in values


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):  # ended meanwhile; or it became another user, by sudo
            continue
