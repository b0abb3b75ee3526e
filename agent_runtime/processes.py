"""Who runs as whom in a sandbox, and how everything that an agent started is killed.

As PID 1 of a container the supervisor kills by user: one kill(-1) as that user is atomic, so that not even a
fork bomb outruns it, and it needs no free process. Elsewhere other programs may run as the same user, so the
commands of this sandbox are recognised by a variable in their environment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

MARKER = "IN_FARHAND_SANDBOX"
"""Its value is the sandbox's work directory. Every command has it in its environment."""

PATIENCE_S = 5.0
GONE = (b"", b"X")
DEAD = (*GONE, b"Z")

OOM_SCORE = "500"
"""When memory runs out, what the agent started goes first."""


class Users(NamedTuple):
    """User ids of loop and helper; None: everything runs as whoever started us."""

    loop: int | None
    helper: int | None


def become(uid: int | None) -> None:
    """Give up every other identity, for good."""
    if uid is None:
        return
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def be_first_to_go() -> None:
    """Called before `become`: afterwards the file belongs to somebody else."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # without it, memory is not limited by us
        file.write(OOM_SCORE)


def kill_all(users: Users, helper_pid: int, work: str, reap: Callable[[], None], *, collected: bool) -> None:
    """Kill the helper and every command, and wait until none runs; `reap` collects the children that ended.

    `collected`: wait for the zombies too, which count against limits until somebody (not always we) collects them.
    """
    deadline = time.monotonic() + PATIENCE_S
    mark = f"{MARKER}={work}".encode()
    victims = {helper_pid} - {0}
    while True:
        if os.getpid() == 1 and users.helper is not None:
            victims |= {pid for pid in _pids() if _user(pid) == users.helper}
            _kill_as(users.helper)
        else:
            victims |= {pid for pid in _pids() if mark in _environment(pid)}
            for pid in victims:
                _kill(pid)
        reap()
        victims = {pid for pid in victims if _state(pid) not in (GONE if collected else DEAD)}
        if not victims or time.monotonic() > deadline:
            return
        time.sleep(0.002)


def _kill_as(uid: int) -> None:
    """Only what this user may signal is hit: not the loop. Root's own signals would hit everybody."""
    os.seteuid(uid)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the helper saw the loop's end first, and nothing else runs
    finally:
        os.seteuid(0)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _user(pid: int) -> int | None:
    for line in _read(pid, "status").split(b"\n"):
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def _state(pid: int) -> bytes:
    return _read(pid, "stat").rpartition(b") ")[2][:1]


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:  # gone meanwhile, or not ours
        return b""
