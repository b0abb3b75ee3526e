"""The worker's end of a scripted sandbox: starts it, and asks it to do things."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from agent_runtime.protocol import SOCKET
from workers.sandbox.base import Driver, Sandbox, SandboxSpec

DEADLINE_S = 30.0


class Ran(NamedTuple):
    code: int
    output: str


class Inside:
    """One sandbox. `ask` and `run` wait for the answer."""

    def __init__(self, driver: Driver, path: Path, bundle: Path) -> None:
        self.spec = SandboxSpec(path.name, path, bundle)
        self.sandbox: Sandbox
        self.driver = driver
        self._listener = listen(path)
        self._link: socket.socket | None = None

    def start(self) -> None:
        self.sandbox = self.driver.start(self.spec)
        self._link, _address = self._listener.accept()
        self._link.settimeout(DEADLINE_S)
        self._lines = self._link.makefile("rw")

    def send(self, **request: Any) -> None:
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()

    def ask(self, **request: Any) -> Any:
        self.send(**request)
        return json.loads(self._lines.readline())

    def run(self, command: str, *, user: str = "helper", timeout: float = 20.0) -> Ran:
        return Ran(**self.ask(do="run", command=command, user=user, timeout=timeout))

    def close(self) -> None:
        if self._link:
            self._lines.close()
            self._link.close()
        self._listener.close()


def listen(path: Path) -> socket.socket:
    """A socket that listens on the link, as a worker's relay does before it starts the sandbox."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path / "link" / SOCKET))
    (path / "link" / SOCKET).chmod(0o666)
    listener.listen(1)
    listener.settimeout(DEADLINE_S)
    return listener


def running(mark: str) -> list[int]:
    """Processes of this host, containers included, with the mark in their command line. The dead do not count."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_marked(entry, mark)]


def until_running(mark: str, count: int) -> None:
    """A process that is just becoming another program has no command line for a moment."""
    deadline = time.monotonic() + DEADLINE_S
    while len(running(mark)) < count:
        assert time.monotonic() < deadline, running(mark)


def _is_marked(process: Path, mark: str) -> bool:
    try:
        return mark in (process / "cmdline").read_bytes().decode(errors="replace") and int(process.name) != os.getpid()
    except OSError:  # ended meanwhile
        return False


def unique_nap() -> str:
    """An argument for `sleep` that nobody else uses."""
    return f"3{time.monotonic_ns() % 10**9:09}"
