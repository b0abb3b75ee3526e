"""An internet of a test: names, public addresses, and the loopback servers behind them. And the proxy between."""

from __future__ import annotations

import http.client
import io
import json
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from gevent import socket as gevent_socket
from sqlalchemy import update

from agent_runtime.protocol import EGRESS_SOCKET
from infra.db import patiently
from infra.services import Services
from infra.tables import Project
from infra.tasks import egress
from infra.tasks.transitions import Lease
from tests.world import World
from workers.egress.bounds import Bounds
from workers.egress.network import Network
from workers.egress.server import EgressServer

DEADLINE_S = 60.0


class Internet(Network):
    """What the proxy resolves and connects to. Only what a test has put here exists."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        """For each name the answers in order; the last one is repeated."""
        self.ports: dict[tuple[str, int], int] = {}
        """The loopback port behind an address and port."""
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def put(self, name: str, port: int, loopback_port: int, address: str = "93.184.216.34") -> None:
        self.names[name] = [[address]]
        self.ports[address, port] = loopback_port

    def resolve(self, host: str, port: int) -> list[str]:  # noqa: ARG002
        self.resolved.append(host)
        answers = self.names.get(host, [])
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def connect(self, address: str, port: int, timeout: float) -> Any:
        self.connected.append((address, port))
        loopback_port = self.ports.get((address, port))
        if loopback_port is None:
            raise ConnectionRefusedError("nobody is there")
        return gevent_socket.create_connection(("127.0.0.1", loopback_port), timeout)


class Answer(NamedTuple):
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of a refusal."""
        error = json.loads(self.body)["error"]
        assert error["message"]
        assert error["hint"]
        return str(error["code"])


class Proxy:
    """An attempt's proxy, served from a thread with a gevent hub of its own."""

    def __init__(self, world: World, directory: Path, network: Network, bounds: Bounds | None = None) -> None:
        self.world = world
        self.lease: Lease = world.claimed()
        self.path = directory / EGRESS_SOCKET
        self.is_suspended = False
        self.lost = threading.Event()
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        started: Future[EgressServer] = Future()
        self._thread = threading.Thread(target=self._run, args=(directory, network, bounds, started))
        self._thread.start()
        self.server = started.result(DEADLINE_S)

    def _run(self, directory: Path, network: Network, bounds: Bounds | None, started: Future[EgressServer]) -> None:
        server = EgressServer(directory, bounds=bounds, network=network)
        server.start()
        started.set_result(server)
        while True:
            gevent.sleep(0.002)
            if self._work.empty():
                continue
            job = self._work.get()
            if job is None:
                break
            do, done = job
            try:
                done.set_result(do())
            except Exception as error:  # noqa: BLE001  (it is the waiting thread's)
                done.set_exception(error)
        server.cut()
        gevent.get_hub().destroy()

    def in_hub(self, do: Callable[[], Any]) -> Any:
        """Run in the thread of the proxy."""
        done: Future[Any] = Future()
        self._work.put((do, done))
        return done.result(DEADLINE_S)

    def allow(self, what: Any, *operator: str) -> None:
        """Give the task out, in a project with this egress."""
        services = self.world.services
        with services.database.begin() as connection:
            connection.execute(update(Project).where(Project.id == self.world.project_id).values(egress=what))
        changed = Services(
            **{name: getattr(services, name) for name in Services.__slots__ if name != "settings"},
            settings=services.settings.model_copy(update={"egress_allow": operator}),
        )
        self.in_hub(
            lambda: self.server.assign(
                changed,
                self.lease,
                self.world.project_id,
                suspended=lambda: self.is_suspended,
                on_lost=self.lost.set,
            )
        )

    def end(self) -> None:
        """As at the end of an attempt."""
        self.in_hub(self.server.cut)
        self.in_hub(self.server.settle)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(DEADLINE_S)

    def records(self) -> list[dict[str, Any]]:
        """All that were written, oldest first."""

        def read() -> list[dict[str, Any]]:
            with self.world.services.database.read() as connection:
                return egress.list_egress(connection, self.lease.task_id, after=None, limit=100_000)

        return patiently(read)

    def settled(self) -> list[dict[str, Any]]:
        """The records after the attempt's end."""
        self.end()
        return self.records()

    # ---- as a sandbox ------------------------------------------------------------------------------------------

    def dial(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE_S)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    def say(self, request: bytes) -> Answer:
        """The answer to raw bytes."""
        with self.dial() as client:
            client.sendall(request)
            return read_answer(client, method=request.partition(b" ")[0].decode(errors="replace"))

    def get(self, url: str, **headers: str) -> Answer:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return self.say(f"GET {url} HTTP/1.1\r\nHost: ignored.example\r\n{lines}\r\n".encode())

    def connect(self, authority: str) -> tuple[Answer | None, socket.socket]:
        """CONNECT: None and the open tunnel, or the refusal."""
        client = self.dial()
        client.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        if head.startswith(b"HTTP/1.1 200 "):
            return None, client
        return read_answer(client, head), client

    def tunnel(self, authority: str) -> socket.socket:
        refusal, client = self.connect(authority)
        assert refusal is None, refusal
        return client


def read_answer(client: socket.socket, so_far: bytes = b"", method: str = "GET") -> Answer:
    """All that comes until the end, as a response. Raises http.client.IncompleteRead for one that is cut."""
    received = bytearray(so_far)
    with suppress(ConnectionError):
        while data := client.recv(65536):
            received += data
    response = http.client.HTTPResponse(_Received(bytes(received)), method=method)  # type: ignore[arg-type]
    response.begin()
    return Answer(response.status, response.reason, dict(response.headers.items()), response.read())


class _Received:
    """What http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def ended(client: socket.socket) -> bool:
    """Wait for the end of a connection, whatever still comes."""
    try:
        while client.recv(65536):
            pass
    except (ConnectionError, ssl.SSLError):
        pass
    return True
