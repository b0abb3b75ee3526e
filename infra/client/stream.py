"""The stream of one task (design section 8), over as many connections as it takes.

Guarantee: every event of the task after `after` is yielded exactly once and in order, whatever drops. The position is
the last `seq` that was yielded; each new connection subscribes from there.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from agent_runtime.protocol import TERMINAL_EVENTS
from infra.errors import FarhandError, NotFoundError, UnauthenticatedError, UnavailableError

Frame = dict[str, Any]

SUBPROTOCOL = Subprotocol("farhand.v1")
MAX_FRAME_BYTES = 32 * 2**20
FIRST_PAUSE_S = 0.25
FIRST_PAUSE_WHEN_ASKED_S = 2.0
LONGEST_PAUSE_S = 15.0
GIVE_UP_AFTER_S = 300.0

_REOPENING = frozenset({"task_started", "task_resumed", "message"})
"""Events after which a task that had ended has not."""


class StreamRefusedError(FarhandError):
    """Look into the log of the gateway."""

    code = "stream_refused"


class _LostError(Exception):
    """This connection is of no more use; come back after `pause_s`, or, when None, after one that grows."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause_s = pause_s


def frames(
    url: str, token: str, task_id: str, *, after: int = 0, tick_s: float | None = None, direct: bool = False
) -> Iterator[Frame]:
    """Frames of a task as the server sends them, until it has ended and nothing of it is missing.

    Besides the server's own: `{"type": "connection", "up": bool, "reason"}` when a connection is lost and found, and,
    with `tick_s`, `{"type": "tick"}` whenever nothing came for so long. `direct` bypasses a proxy of the environment.

    Raises:
        UnauthenticatedError, NotFoundError
        UnavailableError: no connection for GIVE_UP_AFTER_S.
    """
    stream = _TaskStream(token, task_id, after, tick_s)
    lost_at: float | None = None
    failures = 0
    while True:
        try:
            with _connection(url, direct=direct) as socket:
                for frame in stream.over(socket):
                    if lost_at is not None and frame["type"] == "subscribed":
                        yield {"type": "connection", "up": True, "reason": ""}
                    if frame["type"] == "subscribed":
                        lost_at, failures = None, 0
                    yield frame
                return
        except _LostError as lost:
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                yield {"type": "connection", "up": False, "reason": lost.reason}
            if now - lost_at > GIVE_UP_AFTER_S:
                raise UnavailableError(
                    f"no stream from {url} for {GIVE_UP_AFTER_S:.0f} s: {lost.reason}",
                    hint=f"The task goes on without you; come back with `farhand watch {task_id}`.",
                ) from None
            yield from _pause(lost, failures, tick_s)
            failures += 1


class _TaskStream:
    """What was yielded so far, over all connections."""

    def __init__(self, token: str, task_id: str, after: int, tick_s: float | None) -> None:
        self._token = token
        self._task_id = task_id
        self._applied = after
        self._tick_s = tick_s
        self._last_seq = 0
        self._ended = False
        self._reconnect_s: float | None = None

    def over(self, socket: ClientConnection) -> Iterator[Frame]:
        """What one connection brings; returns when the task has ended. Raises _LostError."""
        self._reconnect_s = None
        try:
            socket.send(json.dumps({"type": "auth", "token": self._token}))
            socket.send(json.dumps({"type": "subscribe", "task_id": self._task_id, "after": self._applied}))
            while True:
                frame = self._receive(socket)
                if self._is_new(frame):
                    yield frame
                if self._has_ended():
                    return
        except ConnectionClosed as closed:
            raise self._verdict(closed) from None

    def _receive(self, socket: ClientConnection) -> Frame:
        try:
            frame = json.loads(socket.recv(timeout=self._tick_s))
        except TimeoutError:
            return {"type": "tick"}
        except ValueError:
            raise _LostError("the server sent what is not JSON") from None
        return frame if isinstance(frame, dict) and isinstance(frame.get("type"), str) else {"type": ""}

    def _is_new(self, frame: Frame) -> bool:
        """Keep account of a frame; False for one that the caller has seen or need not see."""
        match frame["type"]:
            case "event":
                return self._apply(frame["event"])
            case "subscribed":
                self._last_seq, self._ended = frame["last_seq"], frame["status"] in TERMINAL_EVENTS
            case "reconnect":
                self._reconnect_s = frame.get("after_ms", 0) / 1000
            case "error":
                self._refuse(frame)
        return True

    def _apply(self, event: Frame) -> bool:
        seq = event["seq"]
        if seq <= self._applied:
            return False
        if seq != self._applied + 1:
            raise _LostError(f"event {self._applied + 1} is missing", pause_s=FIRST_PAUSE_S)
        self._applied = seq
        if seq > self._last_seq:  # what `subscribed` said of the status holds for the events up to its last_seq
            self._last_seq = seq
            if event["type"] in TERMINAL_EVENTS:
                self._ended = True
            elif event["type"] in _REOPENING:
                self._ended = False
        return True

    def _refuse(self, frame: Frame) -> None:
        message, code = str(frame.get("message", "refused")), str(frame.get("code", ""))
        if code == "resume_invalid":
            # The database was restored to a state from before `after`: what we know of is gone.
            raise StreamRefusedError(
                f"the task has no event {self._applied} any more", hint="Watch it again from its beginning.", code=code
            )
        if code in {"unauthenticated", "token_expired", "token_invalid"}:
            raise UnauthenticatedError(message, code=code)
        if code == "not_found":
            raise NotFoundError(message)
        raise StreamRefusedError(message, hint=frame.get("hint"), code=code or None)

    def _has_ended(self) -> bool:
        return self._ended and self._applied >= self._last_seq

    def _verdict(self, closed: ConnectionClosed) -> Exception:
        """What the close code says (40xx stay away, 41xx back off, 42xx come back now)."""
        code = closed.rcvd.code if closed.rcvd else 1006
        reason = (closed.rcvd.reason if closed.rcvd else "") or f"closed ({code})"
        if 4000 <= code < 4100:
            return UnauthenticatedError(f"the stream was refused: {reason}")
        if 4200 <= code < 4300:
            return _LostError(reason, pause_s=self._reconnect_s or 0.0)
        if 4100 <= code < 4200:
            return _LostError(reason, pause_s=FIRST_PAUSE_WHEN_ASKED_S)
        return _LostError(reason)


def _connection(url: str, *, direct: bool) -> ClientConnection:
    """Raises _LostError, UnauthenticatedError."""
    try:
        return connect(
            url,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=MAX_FRAME_BYTES,
            proxy=None if direct else True,
            legacy=True,
        )
    except InvalidStatus as refused:
        status = refused.response.status_code
        if status in {401, 403}:
            raise UnauthenticatedError(f"the stream was refused with {status}") from None
        raise _LostError(f"the stream was refused with {status}") from None
    except (OSError, InvalidHandshake, EOFError) as error:
        raise _LostError(str(error) or type(error).__name__) from None


def _pause(lost: _LostError, failures: int, tick_s: float | None) -> Iterator[Frame]:
    growing = min(FIRST_PAUSE_S * 2.0**failures, LONGEST_PAUSE_S)
    asked = lost.pause_s
    seconds = growing if asked is None else asked if failures == 0 else max(asked, growing)
    end = time.monotonic() + seconds * random.uniform(0.75, 1.25)  # noqa: S311  (so that clients don't return at once)
    while (left := end - time.monotonic()) > 0:
        time.sleep(left if tick_s is None else min(left, tick_s))
        if tick_s is not None:
            yield {"type": "tick"}
