"""The gateway of one process: its connections, what they share, and their end when the process drains."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import Counter
from time import monotonic
from uuid import UUID

from flask import Request

from api.gateway.admission import RefusedError
from api.gateway.close_codes import Close
from api.gateway.connection import Connection
from api.gateway.hub import Hub
from api.gateway.limits import Limits
from api.gateway.readers import Readers
from api.gateway.socket import Socket
from infra.services import Services

log = logging.getLogger(__name__)


class Gateway:
    def __init__(self, services: Services, limits: Limits) -> None:
        self._services = services
        self._limits = limits
        self._hub = Hub(services, limits)
        self._readers = Readers(limits.readers)
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._sockets_of: Counter[UUID] = Counter()
        self._started_in = 0
        self._draining = False
        self._stopped = threading.Event()

    def serve(self, socket: Socket, request: Request) -> None:
        """Serve one client until its socket is closed."""
        connection = Connection(socket, services=self._services, hub=self._hub, readers=self._readers, join=self._join)
        with self._lock:
            self._start()
            self._connections.add(connection)
        try:
            if self._draining:
                self._send_away(connection)
            connection.run(request)
        finally:
            with self._lock:
                self._connections.discard(connection)
                self._count(connection.user_id, -1)

    def _join(self, connection: Connection, user_id: UUID) -> None:
        """`connection` is this user's from now on. Raises RefusedError when the user has too many."""
        with self._lock:
            if self._sockets_of[user_id] >= self._limits.sockets_per_user:
                raise RefusedError(*Close.RATE)
            connection.user_id = user_id
            self._count(user_id, +1)

    def drain(self) -> None:
        """Send every client away, in batches, and whoever still comes; they return elsewhere, spread over a while."""
        with self._lock:
            self._draining = True
            leaving = list(self._connections)
        log.info("draining %d connections", len(leaving), extra={"action": "drain"})
        for start in range(0, len(leaving), self._limits.drain_batch):
            for connection in leaving[start : start + self._limits.drain_batch]:
                self._send_away(connection)
            self._stopped.wait(self._limits.drain_pause_s)

    def stop(self) -> None:
        """End the threads of this gateway. Connections are to be closed before, by `drain`."""
        self._stopped.set()
        self._hub.stop()
        self._readers.stop()

    def _send_away(self, connection: Connection) -> None:
        connection.send_away(random.randint(0, self._limits.reconnect_jitter_ms))  # noqa: S311  (spreads the load)

    def _start(self) -> None:
        # With the first client, so that a process which forks before has its threads where they are needed.
        if self._started_in == os.getpid():
            return
        self._started_in = os.getpid()
        self._hub.start()
        self._readers.start()
        threading.Thread(target=self._tick_for_ever, name="pulse", daemon=True).start()

    def _tick_for_ever(self) -> None:
        while not self._stopped.wait(self._limits.pulse_s):
            with self._lock:
                connections = list(self._connections)
            now = monotonic()
            for connection in connections:
                connection.tick(now)

    def _count(self, user_id: UUID | None, change: int) -> None:
        if user_id is not None:
            self._sockets_of[user_id] += change
            if not self._sockets_of[user_id]:
                del self._sockets_of[user_id]
