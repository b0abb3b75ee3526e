"""Servers that sandboxes want to reach, on loopback, over plain HTTP or TLS. What they were asked is kept."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from typing import Self

from tests.standin.loopback import LoopbackHandler, LoopbackServer
from tests.standin.request_log import RequestLog


@dataclass
class Seen:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)


class Upstream(LoopbackServer):
    """`/big/<n>` is n bytes, `/endless` never ends, `/hold` never answers, `/raw` is what `raw` is.

    With `files` these are served, and nothing else. Any other path is answered with itself.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.log: RequestLog[Seen] = RequestLog()
        self.raw = b""
        self.files: dict[str, bytes] = {}
        self.accepted = 0
        self.flowing = threading.Event()
        self.heads = threading.Event()
        """The head of a request has arrived, and perhaps not all of its body."""
        self._tls = tls
        super().__init__(_Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def get_request(self):  # type: ignore[no-untyped-def]
        connection, address = super().get_request()
        self.accepted += 1
        if self._tls is None:
            return connection, address
        secure = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.discard(connection)
        self._connections.add(secure)
        return secure, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken connection is what many tests are about."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(LoopbackHandler):
    server: Upstream

    def do_GET(self) -> None:  # noqa: N802 - the base class looks for these names
        self.server.heads.set()
        body = b"".join(self.body_pieces())
        seen = Seen(self.command, self.path, list(self.headers.items()), body)
        self.server.log.add(seen)
        path = self.path_only()
        if path in self.server.files:
            self.reply(200, {"Content-Type": _type_of(path)}, self.server.files[path])
        elif self.server.files:
            self.reply(404, {}, b"no such file")
        elif path.startswith("/big/"):
            self.reply(200, {}, b"x" * int(path[5:]))
        elif path == "/endless":
            self._endless()
        elif path == "/hold":
            self.hold()
        elif path == "/raw":
            self.wfile.write(self.server.raw)
            self.close_connection = True
        elif path == "/chunked":
            self.start_chunked(200, {"X-Server": "here"})
            self.write_chunk(b"in ")
            self.write_chunk(b"pieces")
            self.end_chunks()
        else:
            self.reply(200, {"X-Server": "here", "Keep-Alive": "timeout=5"}, path.encode())

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def _endless(self) -> None:
        self.start_chunked(200, {})
        while not self.server.stopping.is_set():
            self.write_chunk(b"x" * 65536)
            self.server.flowing.set()


def _type_of(path: str) -> str:
    return "text/html" if path.endswith("/") else "application/octet-stream"
