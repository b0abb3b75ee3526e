"""Messages between loop and helper: one JSON object and a blob of bytes, each with its length, over a socket."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Dict

HEADER = struct.Struct(">IQ")
MAX_MESSAGE_BYTES = 64 << 20
MAX_BLOB_BYTES = 1 << 30

RESTART = b"restart the helper"
STARTED = b"started"
"""What the loop asks of the supervisor, and its answer, which carries the socket of the fresh helper."""

FORWARD = b"start the forwarder"
FAILED = b"failed"
"""The loop's other wish, answered with the forwarder's port in digits; and the answer to what cannot be done."""

MAX_CONTROL_BYTES = 64

Message = Dict[str, Any]


class Closed(Exception):
    """The other end is gone, or speaks nonsense."""


class Channel:
    """One end. Not for several threads."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def close(self) -> None:
        self._socket.close()

    def send(self, message: Message, blob: bytes = b"") -> None:
        """Raises Closed when the other end is known to be gone: then nobody has acted on the message."""
        head = json.dumps(message).encode()
        self._socket.settimeout(None)
        try:
            self._socket.sendall(HEADER.pack(len(head), len(blob)) + head)
            self._socket.sendall(blob)
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> tuple[Message, bytes]:
        """The next message. Raises Closed, or TimeoutError (after which the channel is of no more use)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        head_bytes, blob_bytes = HEADER.unpack(self._read(HEADER.size, deadline))
        if head_bytes > MAX_MESSAGE_BYTES or blob_bytes > MAX_BLOB_BYTES:
            raise Closed(f"a message of {head_bytes} + {blob_bytes} bytes is not believable")
        head, blob = self._read(head_bytes, deadline), self._read(blob_bytes, deadline)
        try:
            message: Message = json.loads(head)
        except ValueError as error:
            raise Closed(f"not a message: {error}") from error
        return message, bytes(blob)

    def _read(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray()
        while len(data) < size:
            try:
                self._socket.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
                received = self._socket.recv(min(size - len(data), 1 << 20))
            except socket.timeout as error:  # noqa: UP041  (it is TimeoutError only from Python 3.10 on)
                raise TimeoutError("no answer in time") from error
            except OSError as error:
                raise Closed(str(error)) from error
            if not received:
                raise Closed("the other end is gone")
            data += received
        return data
