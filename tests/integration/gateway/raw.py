"""A client that reads exactly as much as a test tells it to, from a connection with small buffers."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, Self

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event, TextMessage

from tests.integration.gateway.client import DEADLINE_S, Frame


class RawClient:
    def __init__(self, address: str, token: str) -> None:
        host, _, port = address.partition(":")
        self._end = socket.socket()
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._end.settimeout(DEADLINE_S)
        self._end.connect((host, int(port)))
        self._parser = Connection(ConnectionType.CLIENT)
        self._text = ""
        self.close_code: int | None = None
        self._shake_hands(address)
        self.send("auth", token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.close()

    def send(self, type_: str, **fields: Any) -> None:
        message = TextMessage(data=json.dumps({"type": type_, **fields}, default=str))
        self._end.sendall(self._parser.send(message))

    def read(self, size: int) -> list[Frame]:
        """The frames that become whole with the next `size` bytes at most. `close_code` is set at the end."""
        try:
            data = self._end.recv(size)
        except ConnectionResetError:
            data = b""
        self._parser.receive_data(data or None)
        return [frame for event in self._parser.events() if (frame := self._whole(event)) is not None]

    def read_to_the_end(self) -> list[Frame]:
        frames = []
        while self.close_code is None:
            frames += self.read(2**20)
        return frames

    def _whole(self, event: Event) -> Frame | None:
        if isinstance(event, CloseConnection):
            self.close_code = event.code  # 1002 and 1007 by the parser, when a frame is damaged
        if not isinstance(event, TextMessage):
            return None
        self._text += event.data
        if not event.message_finished:
            return None
        frame: Frame = json.loads(self._text)
        self._text = ""
        return frame

    def _shake_hands(self, address: str) -> None:
        self._end.sendall(
            f"GET /v1/stream HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._end.recv(1)
        assert head.startswith(b"HTTP/1.1 101")
