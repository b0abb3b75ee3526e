"""A subscriber of one task that keeps reconnecting, and writes down every event frame as it came.

It forgives nothing and mends nothing: a frame that comes twice or out of order is kept as it is, for the check. After
each break it subscribes behind the last event that it has.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

Json = dict[str, Any]

PAUSE_S = 0.3
SILENCE_S = 5.0
"""Without a frame for so long it asks for a sign of life, and reconnects after the same time without one."""
LOOK_S = 0.5


@dataclass
class Subscriber:
    """`on_event` is called for each event before it counts as seen, on the subscriber's thread."""

    url: str
    token: str
    task_id: str
    on_event: Callable[[Json], None]
    seen: list[Json] = field(default_factory=list)
    connections: int = 0
    refusals: list[str] = field(default_factory=list)
    """Frames of kind `error` that are no outage."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"subscriber {self.task_id}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    @property
    def last_seq(self) -> int:
        return max((event["seq"] for event in self.seen), default=0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with connect(
                    self.url,
                    subprotocols=[Subprotocol("farhand.v1")],
                    compression=None,
                    max_size=None,
                    proxy=None,
                    legacy=True,
                    open_timeout=SILENCE_S,
                    close_timeout=1,
                ) as socket:
                    self.connections += 1
                    self._listen(socket)
            except (OSError, InvalidHandshake, WebSocketException, EOFError, ValueError):
                self._stop.wait(PAUSE_S)

    def _listen(self, socket: ClientConnection) -> None:
        """Until the connection breaks, is silent, or we stop."""
        socket.send(json.dumps({"type": "auth", "token": self.token}))
        socket.send(json.dumps({"type": "subscribe", "task_id": self.task_id, "after": self.last_seq}))
        silent = 0.0
        while not self._stop.is_set():
            try:
                frame = json.loads(socket.recv(timeout=LOOK_S))
            except TimeoutError:
                silent += LOOK_S
                if silent >= 2 * SILENCE_S:
                    return
                if silent == SILENCE_S:
                    socket.send(json.dumps({"type": "ping"}))
                continue
            silent = 0.0
            if frame["type"] == "event":
                self.on_event(frame["event"])
                self.seen.append(frame["event"])
            elif frame["type"] == "error":
                self.refusals.append(f"{frame.get('code')}: {frame.get('message')}")
                return
