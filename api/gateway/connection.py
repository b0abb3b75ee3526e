"""One client's socket from handshake to close: what it sends is answered here, what it subscribed to flows past.

Runs in the thread of the request (a greenlet under gevent), which reads; see `socket` for the other one, which writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from uuid import UUID

from flask import Request
from simple_websocket import ConnectionClosed

from api.auth.identity import authenticate_bearer
from api.gateway import reads
from api.gateway.admission import RefusedError, admit
from api.gateway.close_codes import Close
from api.gateway.commands import perform
from api.gateway.feed import Feed
from api.gateway.frames import Auth, ClientFrame, InvalidFrameError, Json, Ping, Subscribe, Unsubscribe, parse
from api.gateway.framing import json_frame
from api.gateway.hub import Hub
from api.gateway.readers import Readers
from api.gateway.socket import Socket
from api.gateway.subscription import Subscription
from infra.errors import (
    ConflictError,
    FarhandError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from infra.ids import new_id
from infra.services import Services
from infra.tasks.views import get_task

log = logging.getLogger(__name__)


class Connection:
    """`join` is told whose connection this is once that is known; it raises RefusedError when the user has too many."""

    def __init__(
        self,
        socket: Socket,
        *,
        services: Services,
        hub: Hub,
        readers: Readers,
        join: Callable[[Connection, UUID], None],
    ) -> None:
        self.socket = socket
        self.user_id: UUID | None = None
        self._services = services
        self._limits = socket.limits
        self._hub = hub
        self._readers = readers
        self._join = join
        self._auth_deadline = monotonic() + socket.limits.auth_timeout_s
        self._subscriptions: dict[UUID, Subscription] = {}
        self._feed: Feed | None = None
        socket.on_drained = self._drained

    def run(self, request: Request) -> None:
        """Serve the client until the socket is closed, by whichever side."""
        try:
            self._begin(request)
            while True:
                self._answer(self.socket.receive())
        except RefusedError as refused:
            self.socket.close(refused.code, refused.reason)
        except ConnectionClosed:
            return
        except Exception:
            log.exception("a stream ended by a bug", extra={"action": "stream_broken"})
            self.socket.close(*Close.INTERNAL)
        finally:
            self._leave()
        with suppress(ConnectionClosed):
            self.socket.receive()  # the client's part of the closing handshake

    # ---- by the gateway, from its own threads -----------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Called about once a second, with the monotonic time."""
        if self.user_id is None and now > self._auth_deadline:
            self.socket.close(Close.UNAUTHENTICATED[0], "no auth frame came in time")
        self.socket.tick(now)

    def send_away(self, after_ms: int) -> None:
        """Ask the client to connect again, then close."""
        self.socket.send_frame(json_frame({"type": "reconnect", "after_ms": after_ms}))
        self.socket.close(*Close.DRAINING)

    # ---- logging in -------------------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        user_id = admit(self._services, request)
        if user_id is not None:
            self._join(self, user_id)
        self._send({"type": "hello", "connection_id": str(new_id()), "heartbeat_s": self._limits.heartbeat_s})

    def _log_in(self, token: str) -> None:
        """Raises RefusedError, or ForbiddenError when the token is another user's."""
        try:
            user_id = authenticate_bearer(self._services, token)
        except UnauthenticatedError as error:
            raise RefusedError(Close.UNAUTHENTICATED[0], error.message) from error
        except UnavailableError as error:
            if self.user_id is None:
                raise RefusedError(*Close.UNAVAILABLE) from error
            raise
        if self.user_id is None:
            self._join(self, user_id)
        elif self.user_id != user_id:
            raise ForbiddenError("this stream belongs to another user", hint="Open a stream for each user.")

    # ---- frames -----------------------------------------------------------------------------------------------

    def _answer(self, text: str) -> None:
        try:
            frame = parse(text)
        except InvalidFrameError as error:
            if self.user_id is None:
                raise RefusedError(Close.UNAUTHENTICATED[0], "the first frame must be auth") from error
            self._send_error(error, request_id=error.request_id)
            return
        try:
            task = self._act(frame)
        except FarhandError as error:
            self._send_error(error, request_id=frame.request_id)
            return
        if frame.request_id is not None and not isinstance(frame, Ping):
            self._send({"type": "ack", "request_id": frame.request_id} | ({} if task is None else {"task": task}))

    def _act(self, frame: ClientFrame) -> Json | None:
        if isinstance(frame, Auth):
            self._log_in(frame.token)
            return None
        user_id = self.user_id
        if user_id is None:
            raise RefusedError(Close.UNAUTHENTICATED[0], "the first frame must be auth")
        match frame:
            case Subscribe(task_id=UUID() as task_id, after=after):
                self._subscribe(user_id, task_id, after)
            case Subscribe():
                self._subscribe_to_feed(user_id)
            case Unsubscribe(task_id=UUID() as task_id):
                self._unsubscribe(task_id)
            case Unsubscribe():
                self._unsubscribe_from_feed()
            case Ping(request_id=request_id):
                self._send({"type": "pong"} | ({} if request_id is None else {"request_id": request_id}))
            case _:
                return perform(self._services, user_id, frame)
        return None

    # ---- subscriptions ----------------------------------------------------------------------------------------

    def _subscribe(self, user_id: UUID, task_id: UUID, after: int) -> None:
        if task_id not in self._subscriptions and len(self._subscriptions) >= self._limits.subscriptions:
            raise ConflictError(
                f"a socket follows at most {self._limits.subscriptions} tasks",
                hint="Unsubscribe from some, or follow the feed.",
                code="too_many_subscriptions",
            )
        with self._services.database.read() as connection:
            row = get_task(connection, task_id, user_id=user_id)
            epoch = reads.epoch(connection)
        if row is None:
            raise NotFoundError("there is no such task")
        if after > row.last_seq:
            raise ConflictError(
                f"the task has {row.last_seq} events, you can't have {after}",
                hint="Forget what you have of this task and subscribe with after = 0.",
                code="resume_invalid",
            )
        self._unsubscribe(task_id)
        self._send(
            {
                "type": "subscribed",
                "task_id": str(task_id),
                "epoch": epoch,
                "last_seq": row.last_seq,
                "status": row.status,
            }
        )
        subscription = Subscription(
            task_id,
            after,
            socket=self.socket,
            services=self._services,
            readers=self._readers,
            on_gone=self._gone,
        )
        self._subscriptions[task_id] = subscription
        self._hub.watch_task(task_id, subscription)

    def _unsubscribe(self, task_id: UUID) -> None:
        subscription = self._subscriptions.pop(task_id, None)
        if subscription is not None:
            subscription.end()
            self._hub.unwatch(subscription.channel, subscription)

    def _subscribe_to_feed(self, user_id: UUID) -> None:
        self._unsubscribe_from_feed()
        self._feed = Feed(user_id, socket=self.socket, services=self._services, readers=self._readers)
        self._hub.watch_user(user_id, self._feed)

    def _unsubscribe_from_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.end()
            self._hub.unwatch(feed.channel, feed)

    def _gone(self, subscription: Subscription, error: FarhandError) -> None:
        """The hub's verdict: this task can't be followed any more."""
        if self._subscriptions.get(subscription.task_id) is subscription:
            self._unsubscribe(subscription.task_id)
            self._send_error(error, task_id=subscription.task_id)

    def _drained(self) -> None:
        for subscription in list(self._subscriptions.values()):
            subscription.drained()
        if (feed := self._feed) is not None:
            feed.drained()

    def _leave(self) -> None:
        for task_id in list(self._subscriptions):
            self._unsubscribe(task_id)
        self._unsubscribe_from_feed()

    # ---- sending ----------------------------------------------------------------------------------------------

    def _send(self, frame: Json) -> None:
        self.socket.send_frame(json_frame(frame))

    def _send_error(self, error: FarhandError, *, request_id: str | None = None, task_id: UUID | None = None) -> None:
        frame: Json = {"type": "error", **error.as_failure()}
        if request_id is not None:
            frame["request_id"] = request_id
        if task_id is not None:
            frame["task_id"] = str(task_id)
        self._send(frame)
