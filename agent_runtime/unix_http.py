"""A small HTTP/1.1 client for one Unix socket: requests one at a time, over a connection that is kept.

`http.client` does the same with `email`, `urllib` and `datetime` behind it: 1.7 MB in every sandbox, and most of the
time that a reply takes to be read. The other end is our own worker, which sends what is understood here: a status line,
headers, and a body with a length or in chunks.
"""

from __future__ import annotations

import socket
from contextlib import suppress

MAX_LINE_BYTES = 65536
MAX_HEADERS = 100
RECEIVE_BYTES = 65536


class BrokenReply(Exception):
    """The connection ended too early, or said what is not HTTP: it is of no more use."""


class Reply:
    """One reply. Its body must be read to the end before the connection takes the next request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        version, status = _status(connection.line())
        self.status = status
        self._headers = dict(_header(line) for line in _headers(connection))
        self._chunked = self._headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else _size(self._headers.get("content-length", "none"), 10)
        self._ended = not self._chunked and not self._left
        self.closes = version == "HTTP/1.0" or self._headers.get("connection", "").lower() == "close"

    @property
    def ended(self) -> bool:
        """Whether all of the body was read."""
        return self._ended

    def header(self, name: str) -> str | None:
        """`name` in any case."""
        return self._headers.get(name.lower())

    def read(self) -> bytes:
        """The rest of the body."""
        return b"".join(iter(self.read_some, b""))

    def read_some(self) -> bytes:
        """A piece of the body, as soon as there is one; empty at its end. Raises BrokenReply, and OSError."""
        if not self._left and self._chunked and not self._ended:
            self._next_chunk()
        if self._ended:
            return b""
        piece = self._connection.some(self._left)
        self._left -= len(piece)
        if not self._left:
            self._end_of_piece()
        return piece

    def _next_chunk(self) -> None:
        self._left = _size(self._connection.line().partition(b";")[0].decode("latin-1"), 16)
        if not self._left:
            while self._connection.line():  # trailers
                pass
            self._ended = True

    def _end_of_piece(self) -> None:
        if not self._chunked:
            self._ended = True
        elif self._connection.line():
            raise BrokenReply("a chunk is longer than it says")


class Connection:
    """Connects at the first request, and again after `close`. Not for several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._timeout: float | None = None
        self._received = b""
        self._reply: Reply | None = None

    def set_timeout(self, seconds: float) -> None:
        """For each wait for the other end, from now on."""
        self._timeout = seconds
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Reply:
        """The reply, its body still to be read. Raises BrokenReply, and OSError."""
        end = self._connected()
        self._reply = None
        lines = [f"{method} {path} HTTP/1.1", "Host: link", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it read a big body
            end.sendall(head + body)
        self._reply = Reply(self)
        return self._reply

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._reply, self._received = None, None, b""

    def line(self) -> bytes:
        """Without its end. For replies."""
        while b"\n" not in self._received:
            if len(self._received) > MAX_LINE_BYTES:
                raise BrokenReply("a line is too long")
            self._received += self._receive()
        line, _, self._received = self._received.partition(b"\n")
        return line.rstrip(b"\r")

    def some(self, most: int) -> bytes:
        """At least one byte, at most `most`. For replies."""
        received = self._received or self._receive()
        self._received = received[most:]
        return received[:most]

    def _connected(self) -> socket.socket:
        """A connection without a rest of the reply before."""
        if self._socket is not None and (self._received or self._unusable()):
            self.close()
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self._timeout)
            self._socket.connect(self._path)
        return self._socket

    def _unusable(self) -> bool:
        return self._reply is None or self._reply.closes or not self._reply.ended

    def _receive(self) -> bytes:
        assert self._socket is not None  # a reply is read  # noqa: S101
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise BrokenReply("the worker closed the connection")
        return received


def _status(line: bytes) -> tuple[str, int]:
    version, _, rest = line.decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise BrokenReply(f"not a status line: {line[:80]!r}")
    return version, int(rest[:3])


def _headers(connection: Connection) -> list[bytes]:
    lines = []
    while line := connection.line():
        lines.append(line)
        if len(lines) > MAX_HEADERS:
            raise BrokenReply(f"more than {MAX_HEADERS} headers")
    return lines


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("latin-1").partition(":")
    return name.strip().lower(), value.strip()


def _size(text: str, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError:
        size = -1
    if size < 0:
        raise BrokenReply(f"not a length: {text[:40]!r}")
    return size
