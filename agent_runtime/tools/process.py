"""Runs a program in a session of its own, bounded in time and output.

At the timeout its process group is killed. What it detached on purpose (`setsid`, or a server put in the
background by a shell that has ended) lives on until the sandbox ends; its further output is discarded.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from agent_runtime.tools.bounded import HeadAndTail

CHUNK_BYTES = 1 << 18
DRAIN_S = 0.1
"""How long output is still read after the program has ended while a child of it holds the pipe open."""


class Finished(NamedTuple):
    """`code` is negative for a signal, as in `subprocess`."""

    output: HeadAndTail
    code: int
    timed_out_after_s: float | None


def run_bounded(
    argv: list[str], cwd: str, environment: dict[str, str], timeout_s: float, output_bytes: int
) -> Finished:
    """Standard input is empty; standard output and error come together. Only for the main thread."""
    kept = HeadAndTail(output_bytes)
    with _child_signals() as child_ended:
        process, pipe = _start(argv, cwd, environment)
        in_time, at_end = _follow(process, pipe, child_ended, kept, timeout_s)
        if at_end or _drain(pipe, kept):
            os.close(pipe)
        else:
            _discard_in_background(pipe)
    return Finished(kept, process.returncode, None if in_time else timeout_s)


def _start(argv: list[str], cwd: str, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    os.set_blocking(ours, False)
    return process, ours


def _follow(
    process: subprocess.Popen[bytes],
    pipe: int,
    child_ended: socket.socket,
    kept: HeadAndTail,
    timeout_s: float,
) -> tuple[bool, bool]:
    """Read until the program has ended. Returns whether that was in time, and whether the output ended too."""
    deadline = time.monotonic() + timeout_s
    at_end = False
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(child_ended, selectors.EVENT_READ)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                _kill_group(process)
                return False, at_end
            ready = [key.fileobj for key, _events in selector.select(left)]
            if child_ended in ready:
                child_ended.recv(4096)
            if pipe in ready and not _read(pipe, kept):
                at_end = True
                selector.unregister(pipe)
    return True, at_end


def _read(pipe: int, kept: HeadAndTail) -> bool:
    """False at the end of the output."""
    data = os.read(pipe, CHUNK_BYTES)
    kept.add(data)
    return bool(data)


def _drain(pipe: int, kept: HeadAndTail) -> bool:
    """Read what is already there. True at the end of the output."""
    deadline = time.monotonic() + DRAIN_S
    try:
        while time.monotonic() < deadline:
            if not _read(pipe, kept):
                return True
    except BlockingIOError:
        pass
    return False


@contextmanager
def _child_signals() -> Iterator[socket.socket]:
    """A socket that becomes readable when a child ends: works in every engine, as pidfds do not."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    handler_before = signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(wakeup_before)
        signal.signal(signal.SIGCHLD, handler_before)
        ours.close()
        theirs.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _discard_in_background(pipe: int) -> None:
    """A server that still writes must neither block on a full pipe nor be killed by a closed one."""
    os.set_blocking(pipe, True)

    def discard() -> None:
        while os.read(pipe, CHUNK_BYTES):
            pass
        os.close(pipe)

    try:
        threading.Thread(target=discard, daemon=True).start()
    except RuntimeError:  # no more threads: then the writer has to cope with a closed pipe
        os.close(pipe)
