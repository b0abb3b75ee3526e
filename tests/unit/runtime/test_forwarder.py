"""The forwarder: from loopback in the sandbox to the worker's proxy at `link/egress.sock`, in a real sandbox."""

from __future__ import annotations

import os
import shutil
import signal
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.protocol import EGRESS_SOCKET
from tests.unit.runtime.conftest import IS_ROOT, LOOP_UID, Sandbox
from tests.unit.runtime.linkserver import says, tool_use
from tests.unit.runtime.processes import processes_of
from tests.unit.runtime.test_supervisor import OLDEST

CLIENT = """python3 - "$HTTP_PROXY" <<'END'
import socket, sys
port = int(sys.argv[1].rpartition(":")[2])
def connect():
    return socket.create_connection(("127.0.0.1", port), 30)
def read(s):
    data = b""
    while piece := s.recv(65536):
        data += piece
    return data
{}
END"""

ASK = """
s = connect()
s.sendall(b"hello")
s.shutdown(socket.SHUT_WR)
print(read(s).decode())
"""


class Worker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The worker's end: answers what it was sent, upside down, once all of it is there."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Echo)
        path.chmod(0o666)
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is what some tests are about."""


class _Echo(socketserver.BaseRequestHandler):
    server: Worker

    def handle(self) -> None:
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        data = b""
        while piece := self.request.recv(65536):
            data += piece
        with server.lock:
            server.at_once -= 1
        self.request.sendall(data[::-1])


@pytest.fixture
def worker(sandbox: Sandbox) -> Iterator[Worker]:
    server = Worker(sandbox.link / EGRESS_SOCKET)
    yield server
    server.shutdown()
    server.server_close()


def run(sandbox: Sandbox, *scripts: str, egress: bool = True) -> list[str]:
    """The outputs of Python scripts that run as commands."""
    uses = [says(tool_use("run_command", command=CLIENT.format(script))) for script in scripts]
    return sandbox.run(*uses, says("Done."), egress=egress).outputs


def test_bytes_go_both_ways_and_ends_too(sandbox: Sandbox, worker: Worker) -> None:
    assert run(sandbox, ASK) == ["olleh\n[exit code 0]"]


def test_without_egress_there_is_no_forwarder_and_nobody_is_told_of_one(sandbox: Sandbox, worker: Worker) -> None:
    server = sandbox.run(says(tool_use("run_command", command="env | grep -ic proxy")), says("Done."))
    assert server.outputs == ["0\n[exit code 1]"]


def test_much_data_arrives_whole_at_the_pace_of_a_slow_reader(sandbox: Sandbox, worker: Worker) -> None:
    script = """
import threading
s = connect()
data = bytes(range(256)) * 20000
def send():
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
print(read(s) == data[::-1])
"""
    assert run(sandbox, script) == ["True\n[exit code 0]"]


def test_more_connections_than_it_takes_wait_for_their_turn(sandbox: Sandbox, worker: Worker) -> None:
    script = """
held = [connect() for _ in range(150)]
for number, s in enumerate(held):
    s.sendall(b"%d" % number)
answers = []
for s in held:
    s.shutdown(socket.SHUT_WR)
    answers.append(read(s))
print(answers == [(b"%d" % number)[::-1] for number in range(150)])
"""
    assert run(sandbox, script) == ["True\n[exit code 0]"]
    assert 10 < worker.most_at_once <= 48


def test_clients_that_break_off_cost_nothing(sandbox: Sandbox, worker: Worker) -> None:
    script = """
import struct
for number in range(200):
    s = connect()
    s.sendall(b"x" * number)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"""
    assert run(sandbox, script + ASK) == ["olleh\n[exit code 0]"]


def test_a_worker_that_is_away_is_said_to_be(sandbox: Sandbox) -> None:
    script = """
s = connect()
print(read(s).decode().splitlines()[0])
"""
    (output,) = run(sandbox, script)
    assert output.startswith("HTTP/1.1 503 ")


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to tell the processes by their users")
def test_one_that_dies_is_started_again_on_its_port_and_ends_with_the_sandbox(sandbox: Sandbox, worker: Worker) -> None:
    """A command may not kill it; want of memory may."""
    uses = [says(tool_use("run_command", command=CLIENT.format(ASK))) for _ in range(2)]
    server = sandbox.serve(*uses, says("Done."), egress=True)
    killed: list[int] = []

    def kill_before_first_call(path: str) -> None:
        if path == "/calls" and not killed:
            killed.append(max(int(pid) for pid in processes_of(LOOP_UID)))
            os.kill(killed[0], signal.SIGKILL)

    server.before = kill_before_first_call
    sandbox.start()
    code, error = sandbox.wait()
    assert code == 0, error
    assert server.outputs == ["olleh\n[exit code 0]"] * 2
    assert killed
    assert not processes_of(LOOP_UID)


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to have more users than one")
def test_a_command_that_kills_all_it_can_does_not_hit_it(sandbox: Sandbox, worker: Worker) -> None:
    uses = [says(tool_use("run_command", command=command)) for command in ("kill -9 -1", CLIENT.format(ASK))]
    assert sandbox.run(*uses, says("Done."), egress=True).outputs[1] == "olleh\n[exit code 0]"


def test_where_all_are_one_user_it_comes_back_after_the_helper(sandbox: Sandbox, worker: Worker) -> None:
    sandbox.as_users = False
    uses = [says(tool_use("run_command", command=command)) for command in ("kill -9 $PPID", CLIENT.format(ASK))]
    assert sandbox.run(*uses, says("Done."), egress=True).outputs[1] == "olleh\n[exit code 0]"


@pytest.mark.parametrize("python", [OLDEST, "/usr/bin/python3"])
def test_other_interpreters_of_images_run_it(sandbox: Sandbox, worker: Worker, python: str) -> None:
    if not shutil.which(python) or subprocess.run([python, "-V"], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no {python} here")
    sandbox.python = python
    assert run(sandbox, ASK) == ["olleh\n[exit code 0]"]
