"""Slow clients: bounded, never damaged, and never in the way of others. Under gevent, where short writes happen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.gateway.client import DEADLINE_S, Client, Frame
from tests.integration.gateway.conftest import Open
from tests.integration.gateway.process import GatewayProcess
from tests.integration.gateway.raw import RawClient
from tests.integration.gateway.test_deltas import Screen
from tests.integration.gateway.writer import Writer

MESSAGE_BYTES = 2_000_000


@pytest.fixture(scope="module")
def limits() -> dict[str, Any]:
    return {"close_timeout_s": 30.0, "lag_bytes": 64 * 1024}


def seqs(frames: list[Frame]) -> list[int]:
    return [frame["event"]["seq"] for frame in frames if frame["type"] == "event"]


def test_a_client_that_reads_byte_by_byte_while_others_stream(
    gateway: GatewayProcess, stream: Open, token: str, writer: Writer
) -> None:
    with RawClient(gateway.address, token) as slow, stream() as client:
        slow.send("subscribe", task_id=writer.task_id)
        client.subscribe(writer.task_id)
        slow_frames: list[Frame] = []
        for _ in range(12):
            last = writer.progress(size=MESSAGE_BYTES)
            client.socket.ping()
            client.until_seq(writer.task_id, last, timeout=DEADLINE_S)
            slow_frames += slow.read(1)
        slow_frames += slow.read_to_the_end()
        assert slow.close_code == 4108
        assert seqs(slow_frames) == list(range(1, len(seqs(slow_frames)) + 1))
        assert len(seqs(slow_frames)) < last


def test_a_slow_client_may_take_its_time_to_catch_up(gateway: GatewayProcess, token: str, writer: Writer) -> None:
    """What it missed stays in Postgres until it has room: it is not closed for being behind when it comes."""
    last = writer.history(4000)
    writer.progress(3, size=MESSAGE_BYTES, published=False)
    with RawClient(gateway.address, token) as slow:
        slow.send("subscribe", task_id=writer.task_id)
        frames: list[Frame] = []
        while seqs(frames[-1:]) != [last + 3]:
            frames += slow.read(10_000)
        assert seqs(frames) == list(range(1, last + 4))


def test_a_slow_client_loses_deltas_and_gets_a_fresh_partial(
    gateway: GatewayProcess, stream: Open, token: str, writer: Writer
) -> None:
    text = "".join(f"{number} " for number in range(3000))
    with RawClient(gateway.address, token) as slow, stream() as client:
        screen, slow_screen = Screen(client), Screen(client)
        slow.send("subscribe", task_id=writer.task_id)
        client.subscribe(writer.task_id)
        writer.delta("1.1", "0 ")
        while not slow_screen.parts:
            for frame in slow.read(2**20):
                slow_screen.show(frame)
        for frame in client.until_seq(writer.task_id, writer.progress(size=MESSAGE_BYTES)):
            screen.show(frame)
        for number in range(1, 3000):
            writer.delta("1.1", f"{number} ")
        screen.until("1.1", text)
        types = []
        while slow_screen.parts["1.1", 0] != text:
            for frame in slow.read(2**20):
                slow_screen.show(frame)
                types.append(frame["type"])
        assert types.count("delta") < 2000
        assert types.count("partial") >= 1


def test_one_client_does_not_delay_its_tasks_among_each_other(stream: Open, writer: Writer) -> None:
    """A long catch-up and a live task on one socket: both arrive."""
    other = Writer(writer.world)
    last = writer.history(3000)
    with stream() as client:
        client.subscribe(writer.task_id)
        client.subscribe(other.task_id)
        client.until_seq(other.task_id, other.progress(5))
        client.until_seq(writer.task_id, last)


def test_a_client_that_vanished_leaves_nothing_behind(
    gateway: GatewayProcess, stream: Open, token: str, writer: Writer
) -> None:
    for _ in range(20):
        with RawClient(gateway.address, token) as slow:
            slow.send("subscribe", task_id=writer.task_id)
            slow.read(100)
    with stream() as client:
        client.subscribe(writer.task_id)
        last = writer.progress(5, size=100_000)
        client.until_seq(writer.task_id, last)
        assert isinstance(client, Client)
