"""Who runs as whom in a sandbox, and how everything that an agent started is killed.

As PID 1 of a container the supervisor kills by user: one kill(-1) as that user is atomic, so that not even a
fork bomb outruns it, and it needs no free process. Elsewhere other programs may run as the same user, so what
belongs to this sandbox is recognised: it descends from the supervisor, or has a variable in its environment. There
everything is stopped before it is killed, for what is stopped cannot fork into the places that the dead leave.
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


def kill_all(users: Users, spared: set[int], work: str, reap: Callable[[], None], *, collected: bool) -> None:
    """Kill all but the supervisor and the spared, and wait until none runs; `reap` collects the children that ended.

    `collected`: wait for the zombies too, which count against limits until somebody (not always we) collects them.
    """
    deadline = time.monotonic() + PATIENCE_S
    atomic_uid = users.helper if os.getpid() == 1 else None
    buried = GONE if collected else DEAD
    victims: set[int] = set()
    while True:
        killed = _kill_family(spared, work) if atomic_uid is None else _kill_user(atomic_uid)
        victims |= killed
        reap()
        victims = {pid for pid in victims if _state(pid) not in buried}
        # One that nobody saw may have been forked by those just killed: only a look that finds none is the last.
        if (not killed and not victims) or time.monotonic() > deadline:
            return
        time.sleep(0.002)


def _kill_user(uid: int) -> set[int]:
    """Kill all that runs as this user, at once. Returns who that was."""
    victims = {pid for pid in _pids() if _user(pid) == uid and _state(pid) not in DEAD}
    _kill_as(uid)
    return victims


def _kill_family(spared: set[int], work: str) -> set[int]:
    """Stop the sandbox's processes until no new one shows up, then kill them. Returns who that was."""
    stopped: set[int] = set()
    while new := _family(spared, work) - stopped:
        _signal(new, signal.SIGSTOP)
        stopped |= new
    _signal(stopped, signal.SIGKILL)
    return stopped


def _family(spared: set[int], work: str) -> set[int]:
    """The living that descend from the supervisor, which is this process, or carry the mark; without the spared."""
    mark = f"{MARKER}={work}".encode()
    parents = {pid: _parent(pid) for pid in _pids() if pid not in spared and _state(pid) not in DEAD}
    family = {pid for pid in parents if mark in _environment(pid)}
    while children := {pid for pid, parent in parents.items() if parent in {os.getpid(), *family}} - family:
        family |= children
    return family


def _kill_as(uid: int) -> None:
    """Only what this user may signal is hit: not the loop. Root's own signals would hit everybody."""
    os.seteuid(uid)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the helper saw the loop's end first, and nothing else runs
    finally:
        os.seteuid(0)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _user(pid: int) -> int | None:
    for line in _read(pid, "status").split(b"\n"):
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def _state(pid: int) -> bytes:
    return _read(pid, "stat").rpartition(b") ")[2][:1]


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b") ")[2].split()
    return int(fields[1]) if fields else 0


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:  # gone meanwhile, or not ours
        return b""
