"""A claimed task with its link, and a sandbox's side of it that says whatever a test wants said."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from pathlib import Path
from typing import Any, cast

import gevent
from pydantic import SecretStr

from agent_runtime.protocol import HEADER_INBOX, HEADER_STEP, VERSION, Finish, Job
from infra.tasks.transitions import Lease
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.relay.link import Link
from workers.relay.routes import choose_route
from workers.relay.server import LinkServer
from workers.relay.upstream import Upstream

MODEL = "claude-sonnet-5-5"
TURN = {
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "run_command", "input": {"command": "true"}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 10, "output_tokens": 10},
}
TOOLS = [{"name": "run_command", "description": "runs", "input_schema": {"type": "object"}}]
RESULT = {
    "step": 1,
    "index": 0,
    "output": "done",
    "is_error": False,
    "truncated": False,
    "duration_ms": 3,
    "tree": "b" * 40,
    "parent": "a" * 40,
    "left_out": [],
}


class Sandbox:
    """The loop's side: one keep-alive connection over the socket."""

    def __init__(self, path: Path) -> None:
        self._connection = http.client.HTTPConnection("link")
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.settimeout(10)
        self._connection.sock.connect(str(path))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"Content-Type": "application/json"} if data is not None else {}
        self._connection.request(method, path, data, kind | names)
        response = self._connection.getresponse()
        content = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json else content.decode(), dict(response.headers)

    def close(self) -> None:
        self._connection.close()

    def messages(self, step: int, inbox: str = "") -> tuple[int, Any, dict[str, str]]:
        body = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "max_tokens": 100}
        return self.ask("POST", "/v1/messages", body, **{HEADER_STEP: str(step), HEADER_INBOX: inbox})


class Attempt:
    """A claimed task with its link, served from a thread with a gevent hub of its own."""

    def __init__(self, world: World, model: ModelStandIn, directory: Path) -> None:
        self.world = world
        self.lease: Lease = world.claim(world.task(model=MODEL), world.worker())  # type: ignore[assignment]
        self.finished: list[Finish] = []
        self.lost = threading.Event()
        self.is_suspended = False
        settings = world.services.settings.model_copy(
            update={"anthropic_base_url": model.base_url, "anthropic_api_key": SecretStr("k")}
        )
        self.link = Link(
            world.services,
            self.lease,
            on_finish=self.finished.append,
            on_lost=self.lost.set,
            suspended=lambda: self.is_suspended,
        )
        self.upstream = Upstream(settings)
        self.route = choose_route(MODEL, settings, self.upstream)
        self.path = directory / "host.sock"
        started = threading.Event()
        self._stop, self._assigned, self._served = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(directory, started))
        self._thread.start()
        assert started.wait(10)

    def _serve(self, directory: Path, started: threading.Event) -> None:
        server = LinkServer(directory)
        server.start()
        started.set()
        while not self._stop.is_set():
            gevent.sleep(0.01)
            if self._assigned.is_set():
                self._assigned.clear()
                server.serve(self.link)
                self._served.set()
        server.stop()
        gevent.get_hub().destroy()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.upstream.close()

    def assign(self) -> None:
        job: Any = {"protocol": VERSION, "steps": [], "agent": {"name": "coder", "max_tokens": 1000}}
        self.link.assign(cast("Job", job), self.route)
        self._assigned.set()
        assert self._served.wait(10)

    def lose(self) -> None:
        self.world.let_die(self.world.row(self.lease.task_id).worker_id)
        self.world.sweep()
