"""Passes an open descriptor over a Unix socket, as `socket.send_fds` does from Python 3.9 on."""

from __future__ import annotations

import array
import socket
from typing import List, Tuple


def send_descriptor(end: socket.socket, message: bytes, descriptor: int) -> None:
    """Raises OSError."""
    passed = array.array("i", [descriptor])
    end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])


def receive_descriptor(end: socket.socket, size: int) -> Tuple[bytes, List[int]]:
    """A message of at most `size` bytes, and the descriptor that came with it, if one did. Raises OSError."""
    received = array.array("i")
    message, ancillary, _flags, _address = end.recvmsg(size, socket.CMSG_LEN(received.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    return message, list(received)
