"""A worker's end of the link for tests: a real HTTP server on a Unix socket, with scripted model replies.

It keeps the promises of `agent_runtime.protocol` that the runtime relies on: a step is recorded before
`message_stop`, a recorded step is answered from its record, every reply carries cancel and unread.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

DEADLINE_S = 60.0

Reply = dict[str, Any]
"""A model response: content, stop_reason. Or {"status": …, "error": …}, or {"cut_after": n, …} events."""


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def tool_use(name: str, _id: str = "", **args: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": _id or f"toolu_{name}", "name": name, "input": args}


def says(*blocks: dict[str, Any] | str, stop_reason: str = "") -> Reply:
    content = [text(block) if isinstance(block, str) else block for block in blocks]
    calls = any(block["type"] == "tool_use" for block in content)
    return {"content": content, "stop_reason": stop_reason or ("tool_use" if calls else "end_turn")}


def refuses(status: int, code: str = "refused") -> Reply:
    return {"status": status, "error": {"code": code, "message": f"answered {status}", "hint": "none"}}


def events(reply: Reply) -> Iterator[dict[str, Any]]:
    """The Messages API's stream for a whole response, text and arguments in small pieces."""
    yield {"type": "message_start", "message": {"usage": {"input_tokens": 1}}}
    for index, block in enumerate(reply["content"]):
        yield from _block_events(index, block)
    yield {"type": "ping"}
    yield {"type": "message_delta", "delta": {"stop_reason": reply["stop_reason"]}, "usage": {"output_tokens": 2}}
    yield {"type": "message_stop"}


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    start = dict(block)
    if block["type"] == "text":
        start["text"] = ""
        deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
    elif block["type"] == "thinking":
        start.update(thinking="", signature="")
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif block["type"] == "tool_use":
        start["input"] = {}
        raw = block.get("raw_input", json.dumps(block["input"]))
        start.pop("raw_input", None)
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(raw)]
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _pieces(whole: str) -> list[str]:
    middle = len(whole) // 2
    return [whole[:middle], whole[middle:]]


class LinkServer:
    """`script` holds the model's replies in order. What the runtime sent is kept for the test to look at."""

    def __init__(self, socket_path: Path, job: dict[str, Any], script: list[Reply]) -> None:
        self.path = socket_path
        self.job = job
        self.script = list(script)
        self.inbox: list[dict[str, str]] = list(job["inbox"])
        self.cancel = False
        self.recorded: dict[int, Reply] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.asked_inbox: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.packs: list[bytes] = []
        self.archive = bytearray()
        self.setups: list[dict[str, Any]] = []
        self.finishes: list[dict[str, Any]] = []
        self.next_status: dict[str, list[int]] = {}
        """Statuses that the next requests to a path get instead of an answer; 0 closes the connection."""
        self.before: Callable[[str], None] = lambda _path: None
        self.lock = threading.Lock()
        self._server: _Server | None = None

    def start(self) -> LinkServer:
        self._server = _Server(str(self.path), self)
        self.path.chmod(0o777)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """As a worker that was killed: the socket file stays, nobody listens, connections break."""
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
            server.break_connections()

    def restart(self) -> None:
        self.stop()
        self.path.unlink(missing_ok=True)
        self.start()

    @property
    def outputs(self) -> list[str]:
        return [result["output"] for result in self.results]

    @property
    def finish(self) -> dict[str, Any]:
        assert len(self.finishes) == 1, self.finishes
        return self.finishes[0]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, link: LinkServer) -> None:
        self.link = link
        self._open: set[Any] = set()
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (named so by the base class)
        """Quiet."""

    def do_GET(self) -> None:
        if self._allowed():
            link = self.server.link
            if self.path == "/job":
                self._json(200, {**link.job, "inbox": link.inbox})
            else:
                self._json(200, {"messages": link.inbox})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._allowed():
            {
                "/v1/messages": self._message,
                "/calls": self._calls,
                "/results": self._result,
                "/setup/part": self._setup_part,
                "/setup/done": self._setup_done,
                "/finish": self._finish,
            }[self.path](body)

    def _allowed(self) -> bool:
        link = self.server.link
        link.requests.append((self.command, self.path))
        link.before(self.path)
        statuses = link.next_status.get(self.path)
        if not statuses:
            return True
        status = statuses.pop(0)
        if status == 0:
            self.close_connection = True
        else:
            self._json(status, refuses(status))
        return False

    def _message(self, body: bytes) -> None:
        link, request = self.server.link, json.loads(body)
        step = int(self.headers["Farhand-Step"])
        with link.lock:
            link.bodies.append(request)
            link.asked_inbox.append(self.headers.get("Farhand-Inbox", ""))
            reply = link.recorded.get(step) or link.script.pop(0)
        if "status" in reply:
            self._json(reply["status"], reply)
            return
        self._stream(step, reply)

    def _stream(self, step: int, reply: Reply) -> None:
        link = self.server.link
        self.send_response(200)
        self._state_headers()
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events(reply)):
            if number == reply.get("cut_after"):
                self.close_connection = True
                return
            if event["type"] == "message_stop":
                consumed = self.headers.get("Farhand-Inbox", "").split(",")
                link.inbox = [message for message in link.inbox if message["id"] not in consumed]
                link.recorded[step] = reply
            self._chunk(f"event: {event['type']}\r\ndata: {json.dumps(event)}\r\n\r\n".encode())
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _calls(self, body: bytes) -> None:
        self.server.link.calls.append(json.loads(body))
        self._json(200, {})

    def _result(self, body: bytes) -> None:
        line, _, pack = body.partition(b"\n")
        self.server.link.results.append(json.loads(line))
        self.server.link.packs.append(pack)
        self._json(200, {})

    def _setup_part(self, body: bytes) -> None:
        link = self.server.link
        assert int(self.headers["Farhand-Offset"]) == len(link.archive)
        link.archive += body
        self._json(200, {})

    def _setup_done(self, body: bytes) -> None:
        """As a worker: what came is where the sandbox reads it from here on."""
        link = self.server.link
        link.setups.append(json.loads(body))
        (link.path.parent.parent / "in" / "setup.tar").write_bytes(link.archive)
        self._json(200, {})

    def _finish(self, body: bytes) -> None:
        self.server.link.finishes.append(json.loads(body))
        self._json(200, {})

    def _json(self, status: int, value: Any) -> None:
        link = self.server.link
        data = json.dumps({**value, "cancel": link.cancel, "unread": len(link.inbox)}).encode()
        self.send_response(status)
        self._state_headers()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _state_headers(self) -> None:
        link = self.server.link
        self.send_header("Farhand-Cancel", str(int(link.cancel)))
        self.send_header("Farhand-Unread", str(len(link.inbox)))
