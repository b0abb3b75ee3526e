"""The runtime's HTTP client: whatever pieces a reply comes in, and whatever is wrong with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent_runtime.unix_http import BrokenReply, Connection

DEADLINE_S = 30.0
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
WHOLE = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nX-Thing:  one \r\n\r\nhello"


@contextmanager
def answering(path: Path, *connections: list[bytes], pieces: int = 1 << 20) -> Iterator[Connection]:
    """A server that answers the n-th request of each connection by those bytes, then closes it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for replies in connections:
            with suppress(OSError), listener.accept()[0] as end:
                for reply in replies:
                    if not end.recv(65536):
                        break
                    for start in range(0, len(reply), pieces):
                        end.sendall(reply[start : start + pieces])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    connection = Connection(str(path))
    connection.set_timeout(DEADLINE_S)
    try:
        yield connection
    finally:
        connection.close()
        listener.close()


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
def test_replies_of_both_kinds_follow_each_other_on_one_connection(tmp_path: Path, pieces: int) -> None:
    with answering(tmp_path / "s", [CHUNKED, WHOLE, CHUNKED], pieces=pieces) as connection:
        assert connection.exchange("GET", "/a", {}).read() == b"abcde"
        reply = connection.exchange("POST", "/b", {"X": "y"}, b"body")
        assert (reply.status, reply.header("x-THING"), reply.read()) == (202, "one", b"hello")
        assert connection.exchange("GET", "/c", {}).read() == b"abcde"


def test_a_reply_that_was_not_read_costs_the_connection_and_not_the_next_reply(tmp_path: Path) -> None:
    with answering(tmp_path / "s", [CHUNKED], [WHOLE]) as connection:
        assert connection.exchange("GET", "/a", {}).read_some() == b"abc"
        assert connection.exchange("GET", "/b", {}).read() == b"hello"


def test_a_connection_that_the_other_end_will_close_is_not_used_again(tmp_path: Path) -> None:
    closing = WHOLE.replace(b"X-Thing:  one ", b"Connection: close")
    with answering(tmp_path / "s", [closing], [WHOLE]) as connection:
        assert connection.exchange("GET", "/a", {}).read() == b"hello"
        assert connection.exchange("GET", "/b", {}).read() == b"hello"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 2x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno length",
        WHOLE[:-1],
        CHUNKED[:-9],
        CHUNKED.replace(b"3;x=y", b"2"),
        CHUNKED.replace(b"3;x=y", b"z"),
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 70_000,
    ],
)
def test_a_reply_that_is_cut_or_makes_no_sense_is_said_to_be_broken(tmp_path: Path, reply: bytes) -> None:
    with answering(tmp_path / "s", [reply]) as connection, pytest.raises(BrokenReply):
        connection.exchange("GET", "/", {}).read()
