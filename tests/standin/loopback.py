"""An HTTP/1.1 server on 127.0.0.1 that stops at once, whatever its handlers are doing."""

import math
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY_PIECE = 64 * 1024


class ClientLeft(ConnectionError):  # noqa: N818 - an event of the connection, like its base's other children
    """The peer closed the connection, or the server is stopping: write nothing more."""


class LoopbackServer(ThreadingHTTPServer):
    """One thread for each connection; `stop` ends every one of them before it returns."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, handler: type["LoopbackHandler"], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name=type(self).__name__)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                _end_both_ways(connection)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)


class LoopbackHandler(BaseHTTPRequestHandler):
    """What both stand-ins need of a connection: bodies in pieces, chunked replies, and a way to stall."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackServer

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Silent: each server keeps a log that tests can read."""

    def path_only(self) -> str:
        return self.path.partition("?")[0]

    def lower_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def body_pieces(self) -> Iterator[bytes]:
        """The request's body as it arrives, by length or chunked, never whole in memory."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                yield from self._exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read(min(size, BODY_PIECE))
            if not piece:
                raise ClientLeft("the request's body ended early")
            size -= len(piece)
            yield piece

    def client_left(self) -> bool:
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def hold(self, released: threading.Event | None = None, timeout: float = math.inf) -> None:
        """Keep the client waiting until `released`, or for `timeout` seconds.

        Raises ClientLeft as soon as the client is gone or the server stops.
        """
        deadline = time.monotonic() + timeout
        awaited = released or self.server.stopping
        while (remaining := deadline - time.monotonic()) > 0:
            if awaited.wait(min(0.02, remaining)) and released:
                return
            if self.server.stopping.is_set() or self.client_left():
                raise ClientLeft("the client left while it was held")

    def start_chunked(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write_chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def cut(self) -> None:
        """Break the connection off here, in the middle of whatever was being sent."""
        self.close_connection = True
        _end_both_ways(self.connection)


def _end_both_ways(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was gone already


def wait_for_interrupt() -> None:
    """Until Ctrl-C or TERM, for servers run by hand."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    ended.wait()
