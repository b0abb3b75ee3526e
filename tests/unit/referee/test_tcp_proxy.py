"""The ways that the referee cuts: what goes through, what does not, and that nothing of them stays open."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.referee.tcp_proxy import Roads

DEADLINE_S = 30.0


@pytest.fixture
def roads() -> Iterator[Roads]:
    """What is left open when they are closed fails the test: pytest raises what the collector warns of."""
    made = Roads()
    yield made
    made.close()
    del made
    gc.collect()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)


def is_broken(end: socket.socket) -> bool:
    try:
        return end.recv(16) == b""
    except ConnectionResetError:
        return True


def test_bytes_go_through_both_ways_until_it_is_cut(roads: Roads) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        way = roads.to(target.getsockname()[1])
        with connect(way.port) as near, closing(target.accept()[0]) as far:
            near.sendall(b"there")
            assert far.recv(16) == b"there"
            far.sendall(b"back")
            assert near.recv(16) == b"back"
            way.cut()
            assert is_broken(near)
            assert is_broken(far)
        with connect(way.port) as refused:
            assert is_broken(refused)
        assert way.refused == 1


def test_an_end_of_stream_is_passed_on_and_the_answer_still_comes(roads: Roads) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        way = roads.to(target.getsockname()[1])
        with connect(way.port) as near, closing(target.accept()[0]) as far:
            near.shutdown(socket.SHUT_WR)
            assert far.recv(16) == b""
            far.sendall(b"x" * 300_000)
            far.close()
            assert sum(map(len, iter(lambda: near.recv(65536), b""))) == 300_000


def test_connections_that_are_open_at_the_end_are_closed(roads: Roads) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        way = roads.to(target.getsockname()[1])
        with connect(way.port) as near, closing(target.accept()[0]):
            way.silence()
            near.sendall(b"waits")
            roads.close()
            assert is_broken(near)
