"""A client of the stream for tests: checks every frame against its model, and events for order and repeats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any
from uuid import UUID

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from api.gateway.frames import SERVER_FRAMES

DEADLINE_S = 15.0
Frame = dict[str, Any]
_MODELS = {model.__name__.lower(): model for model in SERVER_FRAMES}


class Client:
    def __init__(self, socket: ClientConnection, applied: dict[str, int] | None = None) -> None:
        self.socket = socket
        self.applied = {} if applied is None else applied
        """The last `seq` of each task, as a client keeps it over its connections."""
        self.types: list[str] = []

    def send(self, type_: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type_, **fields}, default=str))

    def receive(self, timeout: float = DEADLINE_S) -> Frame:
        """The next frame. Raises TimeoutError, ConnectionClosed."""
        frame: Frame = json.loads(self.socket.recv(timeout=timeout))
        _MODELS[frame["type"]].model_validate_json(json.dumps(frame))
        if frame["type"] == "event":
            self._apply(frame["event"])
        return frame

    def until(self, wanted: Callable[[Frame], bool], timeout: float = DEADLINE_S) -> list[Frame]:
        """The frames up to the first that is wanted, which is last."""
        deadline = monotonic() + timeout
        frames = []
        while True:
            frames.append(self.receive(max(0.0, deadline - monotonic())))
            if wanted(frames[-1]):
                return frames

    def until_type(self, type_: str) -> Frame:
        return self.until(lambda frame: frame["type"] == type_)[-1]

    def until_seq(self, task_id: UUID, seq: int, timeout: float = DEADLINE_S) -> list[Frame]:
        if self.applied.get(str(task_id), 0) >= seq:
            return []
        return self.until(lambda _: self.applied.get(str(task_id), 0) >= seq, timeout)

    def subscribe(self, task_id: UUID, after: int | None = None) -> Frame:
        """Follow a task from where this client is, or from `after`."""
        known = self.applied.setdefault(str(task_id), 0) if after is None else after
        self.applied[str(task_id)] = known
        self.send("subscribe", task_id=task_id, after=known)
        return self.until_type("subscribed")

    def close_code(self, timeout: float = DEADLINE_S) -> int | None:
        """Read on until the server has closed. The code that it gave, None without one."""
        try:
            self.until(lambda _: False, timeout)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None
        raise AssertionError("unreachable")

    def _apply(self, event: Frame) -> None:
        task_id, seq = event["task_id"], event["seq"]
        assert seq == self.applied.get(task_id, 0) + 1, f"event {seq} after {self.applied.get(task_id, 0)}"
        self.applied[task_id] = seq
        self.types.append(event["type"])


@contextmanager
def open_stream(
    url: str, token: str | None = None, *, applied: dict[str, int] | None = None, **options: Any
) -> Iterator[Client]:
    """A client that is greeted, and logged in with `token` if one is given."""
    with connect(url, subprotocols=["farhand.v1"], max_size=None, proxy=None, close_timeout=2, **options) as socket:  # type: ignore[list-item]
        client = Client(socket, applied)
        if token is not None:
            client.send("auth", token=token)
            client.until_type("hello")
        yield client
