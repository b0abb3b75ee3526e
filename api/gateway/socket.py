"""The WebSocket server of a connection: simple_websocket's `Server`, corrected.

simple_websocket 1.1.0 ignores short writes, lets several threads write at once, has no bound on what it sends or
receives and always agrees to permessage-deflate (about 90 KB a connection). Here:

* One writer per connection takes frames from a queue and finishes each before the next: messages, pings, pongs and
  the close frame alike. A frame is never damaged, whatever the client reads.
* Nobody else ever waits for the client. The queue is bounded in bytes: a client behind by `lag_bytes` is offered no
  deltas, one behind by `queue_bytes` is closed with 4108.
* Reading happens in the thread that calls `receive`; messages are bounded in size and in number per second.
* `tick`, called about once a second for all sockets, pings, and ends connections that stall, are gone, or do not
  finish their closing handshake. So an idle connection costs no timer.

The same code runs on threads and, under gunicorn's gevent worker, on greenlets.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from simple_websocket import ConnectionClosed, Server
from werkzeug.exceptions import BadRequest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason, Opcode
from wsproto.utilities import RemoteProtocolError

from api.gateway.close_codes import Close
from api.gateway.framing import close_frame, frame, text_frame
from api.gateway.limits import Limits
from api.gateway.rate import Bucket

SUBPROTOCOL = "farhand.v1"
_RECEIVE_BYTES = 16 * 1024
_SEND_BYTES = 64 * 1024


def _nothing() -> None:
    pass


class Socket(Server):  # type: ignore[misc]  # simple_websocket ships no types
    """One accepted connection. `receive` belongs to the thread that accepted it; all else may be called by any.

    Raises werkzeug's BadRequest when the request is no WebSocket handshake.
    """

    def __init__(self, environ: dict[str, Any], *, limits: Limits) -> None:
        self.limits = limits
        self.on_drained: Callable[[], None] = _nothing
        """Called by the writer once a client that had no room has some again."""
        self._inbox: deque[str] = deque()
        self._fragments: list[str] = []
        self._fragments_bytes = 0
        self._bucket = Bucket(limits.messages_per_s, limits.messages_burst)
        self._lock = threading.Lock()
        self._work = threading.Lock()
        """Held while the writer has nothing to do; released by whoever gives it something. Cheaper than a condition."""
        self._work.acquire()
        self._writer_rests = False
        self._queue: deque[bytes] = deque()
        self._unsent = 0
        self._refused = False
        self._closing = False
        self._close_deadline = 0.0
        self._writing_since: float | None = None
        self._pinged_at: float | None = None
        self._heard_at = monotonic()
        self.ws: Any  # the base class makes it
        super().__init__(
            environ,
            subprotocols=[SUBPROTOCOL],
            receive_bytes=_RECEIVE_BYTES,
            max_message_size=limits.message_bytes,
            thread_class=functools.partial(threading.Thread, daemon=True),
        )

    # ---- sending: any thread, never blocks --------------------------------------------------------------------

    def send(self, data: str) -> None:
        self.send_frame(text_frame(data))

    def send_frame(self, data: bytes) -> None:
        """Queue a frame. A client that is behind by `queue_bytes` already is closed with 4108 instead."""
        with self._lock:
            if self._unsent <= self.limits.queue_bytes:
                self._put(data)
                return
        self.close(*Close.SLOW_CONSUMER, discard=True)

    def has_room(self) -> bool:
        """Whether the client keeps up. After False, `on_drained` is called once it does."""
        with self._lock:
            behind = self._unsent > self.limits.lag_bytes
            self._refused = self._refused or behind
            return not behind

    def close(self, reason: int | None = None, message: str | None = None, *, discard: bool = False) -> None:
        """Start the closing handshake; `receive` then ends with ConnectionClosed. Only the first call counts.

        What is queued is sent before the close frame, unless `discard`.
        """
        with self._lock:
            if self._closing:
                return
            self.close_reason = reason or CloseReason.NORMAL_CLOSURE
            self.close_message = message or ""
            if discard:
                self._queue.clear()
            self._put(close_frame(self.close_reason, self.close_message))
            self._closing = True
            self._close_deadline = monotonic() + self.limits.close_timeout_s

    @property
    def closing(self) -> bool:
        return self._closing

    def _put(self, data: bytes) -> None:
        if not self._closing:
            self._queue.append(data)
            self._unsent += len(data)
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer_rests:
            self._writer_rests = False
            self._work.release()

    # ---- the writer -------------------------------------------------------------------------------------------

    def _thread(self) -> None:
        """Runs in the connection's one background thread, which the base class starts."""
        try:
            while data := self._next():
                self._write(data)
                self._written(len(data))
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._abort()

    def _next(self) -> bytes:
        """What to write next: one large frame as it is, or several small ones. Empty after the close frame."""
        while True:
            with self._lock:
                if self._queue:
                    return self._take_batch()
                if self._closing:
                    return b""
                self._writer_rests = True
            self._work.acquire()

    def _take_batch(self) -> bytes:
        batch = [self._queue.popleft()]
        size = len(batch[0])
        while self._queue and size + len(self._queue[0]) <= _SEND_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        return batch[0] if len(batch) == 1 else b"".join(batch)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._writing_since = monotonic()
            rest = rest[self.sock.send(rest[:_SEND_BYTES]) :]
        self._writing_since = None

    def _written(self, size: int) -> None:
        with self._lock:
            self._unsent -= size
            drained = self._refused and self._unsent <= self.limits.lag_bytes // 2
            if drained:
                self._refused = False
        if drained:
            self.on_drained()

    # ---- receiving --------------------------------------------------------------------------------------------

    def receive(self) -> str:
        """The next text message, whole. Raises ConnectionClosed when there will be none."""
        while self._closing or not self._inbox:
            data = self._read()
            if not data:
                self._abort()
                self.thread.join()
                self.connected = False
                raise ConnectionClosed(self.close_reason, self.close_message)
            self._heard_at = monotonic()
            # While closing, what still comes is read and dropped: unread input would make the kernel reset the
            # connection, and the client might lose the close frame.
            if not self._closing:
                self._parse(data)
        return self._inbox.popleft()

    def _read(self) -> bytes:
        try:
            data: bytes = self.sock.recv(_RECEIVE_BYTES)
        except OSError:
            return b""
        return data

    def _parse(self, data: bytes) -> None:
        self.ws.receive_data(data)
        for event in self.ws.events():
            self._handle(event)
            if self._closing:
                return

    def _handle(self, event: Event) -> None:
        match event:
            case TextMessage():
                self._text(event)
            case BytesMessage():
                self.close(CloseReason.UNSUPPORTED_DATA, "messages are JSON in text frames")
            case Ping():
                self._count_message()
                self.send_frame(frame(Opcode.PONG, bytes(event.payload)))
            case Pong():
                self._pinged_at = None
            case CloseConnection():  # by the client, or wsproto's verdict on what it sent
                self.close(event.code, event.reason)

    def _text(self, event: TextMessage) -> None:
        if event.data:  # empty ones would pile up without ever counting
            self._fragments.append(event.data)
        self._fragments_bytes += len(event.data.encode())
        if self._fragments_bytes > self.limits.message_bytes:
            self.close(CloseReason.MESSAGE_TOO_BIG, f"a message has at most {self.limits.message_bytes} bytes")
        elif event.message_finished:
            self._inbox.append("".join(self._fragments))
            self._fragments, self._fragments_bytes = [], 0
            self._count_message()

    def _count_message(self) -> None:
        if not self._bucket.take():
            self.close(*Close.RATE)

    # ---- looking after it -------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """End what hangs, ping what is silent. `now` is monotonic."""
        if self._closing:
            if now > self._close_deadline:
                self._abort()
        elif self._writing_since is not None and now - self._writing_since > self.limits.send_timeout_s:
            self.close(*Close.SLOW_CONSUMER, discard=True)
        elif self._pinged_at is not None:
            if now - self._pinged_at > self.limits.pong_timeout_s:
                self.close(*Close.UNRESPONSIVE, discard=True)
        elif now - self._heard_at > self.limits.heartbeat_s:
            self._pinged_at = now
            self.send_frame(frame(Opcode.PING, b""))

    def _abort(self) -> None:
        """Cut the connection: wakes the writer and the reader, wherever they wait."""
        with self._lock:
            if not self._closing:
                self.close_reason, self.close_message = CloseReason.ABNORMAL_CLOSURE, "the connection was lost"
                self._close_deadline = monotonic() + self.limits.close_timeout_s
            self._closing = True
            self._queue.clear()
            self._wake_writer()
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    # ---- the handshake ----------------------------------------------------------------------------------------

    def handshake(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.kernel_buffer_bytes)
        try:
            super().handshake()
        except RemoteProtocolError as error:
            raise BadRequest(f"not a WebSocket handshake: {error}") from error

    def _handle_events(self) -> bool:
        """The base class asks for this during the handshake only; no extension is agreed to."""
        for event in self.ws.events():
            if isinstance(event, Request):
                self.subprotocol = self.choose_subprotocol(event)
                self.sock.sendall(self.ws.send(AcceptConnection(subprotocol=self.subprotocol)))
                # From here on frames are parsed and nothing else: the HTTP part of wsproto is let go.
                self.ws = Connection(ConnectionType.SERVER)
                return True
        raise BadRequest("not a WebSocket handshake")
