"""Words for attacks, put before each of them: standard library only, runs in the sandbox.

An attack may also use `struct`, `sys` and `time`, and these places as it sees them: `LINK`, `OBJECTS`, `WORK`.
`CONTROL` says that it runs with all powers, to show that it is a real one.
"""

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import struct  # noqa: F401
import sys  # noqa: F401
import time  # noqa: F401
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
OUTCOMES: "dict[str, str]" = {}
CHILDREN: "list[int]" = []
CONTROL = False


def tried(what: str, action: "Callable[[], object]") -> None:
    """Do it, and note what came of it."""
    try:
        action()
        OUTCOMES[what] = "done"
    except OSError as error:
        OUTCOMES[what] = errno.errorcode.get(error.errno or 0, str(error))
    except ValueError as error:
        OUTCOMES[what] = str(error)


def report() -> None:
    for child in CHILDREN:
        os.kill(child, signal.SIGKILL)
    print("REPORT " + json.dumps(OUTCOMES), flush=True)  # noqa: T201


def called(result: int) -> int:
    """A C function's result; -1 is its error."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(x86: int, arm: int, *arguments: Any) -> int:
    """A system call by its number on each processor."""
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return called(libc.syscall(ctypes.c_long(arm if ARM else x86), *wide))


def status(pid: int) -> "dict[str, str]":
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def parent(pid: int) -> int:
    return int(status(pid)["PPid"])


def user(pid: int) -> int:
    return int(status(pid)["Uid"].split()[1])


def pids() -> "list[int]":
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def victims() -> "list[int]":
    """The supervisor and the loop; with all powers, a child that stands for them."""
    if CONTROL:
        child = os.fork()
        if child == 0:
            signal.pause()
        CHILDREN.append(child)
        return [child]
    supervisor = os.getpid()
    while user(supervisor) == os.getuid():
        supervisor = parent(supervisor)
    loops = []
    for pid in pids():
        try:
            if parent(pid) == supervisor and user(pid) != os.getuid():
                loops.append(pid)
        except OSError:  # ended meanwhile
            continue
    assert len(loops) == 1, loops
    return [supervisor, *loops]


def against_each(what: str, action: "Callable[[int], object]") -> None:
    for victim in victims():
        tried(f"{what}, process {victim}", lambda pid=victim: action(pid))  # type: ignore[misc]


def in_child(action: "Callable[[], object]") -> "Callable[[], None]":
    """For what cannot be undone: a child does it, and its error is ours."""

    def act() -> None:
        child = os.fork()
        if child == 0:
            try:
                action()
            except OSError as error:
                os._exit(error.errno or 255)
            os._exit(0)
        code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
        if code:
            raise OSError(code, "in a child")

    return act


def connect(path: str) -> None:
    socket.socket(socket.AF_UNIX).connect(path)


def reach(host: str, port: int) -> None:
    socket.create_connection((host, port), 5).close()


def write(path: str, text: str = "1") -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def read(path: str, size: int = 1) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(size)
