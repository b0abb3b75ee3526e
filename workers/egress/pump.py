"""Bytes from one socket to another, and two directions at once; every wait and every byte asks the meter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import gevent
from gevent import socket

from workers.egress.bounds import Meter, SpentError

CHUNK_BYTES = 64 * 1024
DONE = "done"
BROKEN = "broken"
"""A connection that one of its ends reset."""


def receive(source: socket.socket, meter: Meter, size: int = CHUNK_BYTES) -> bytes:
    """The next bytes, none at the end. Raises SpentError, OSError."""
    while True:
        source.settimeout(meter.patience())
        with suppress(TimeoutError):  # the other direction may have moved meanwhile: the meter knows
            data: bytes = source.recv(size)
            return data


def send(sink: socket.socket, data: bytes, meter: Meter) -> None:
    """Raises SpentError when the reader does not take it in time, OSError."""
    sink.settimeout(meter.patience())
    try:
        sink.sendall(data)
    except TimeoutError:
        raise SpentError("idle") from None


def pump(source: socket.socket, sink: socket.socket, account: Callable[[int], None], meter: Meter) -> None:
    """Until the source ends; the sink is then told. Raises SpentError, OSError."""
    while data := receive(source, meter):
        account(len(data))
        send(sink, data, meter)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def run_both(*directions: Callable[[], None], until_first: bool = False) -> str:
    """Run them at once until all have ended well, or the first has ended at all or badly. Returns how it ended."""
    running = [gevent.spawn(_outcome, direction) for direction in directions]
    try:
        for ended in gevent.iwait(running):
            if ended.value != DONE or (until_first and ended is running[0]):
                return str(ended.value)
        return DONE
    finally:
        gevent.killall(running)


def _outcome(direction: Callable[[], None]) -> str:
    try:
        direction()
    except SpentError as spent:
        return spent.code
    except OSError:
        return BROKEN
    return DONE
