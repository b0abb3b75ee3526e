"""One process's connection to Redis in subscriber mode: the doorbell of every task and user watched here.

`redis.client.PubSub` reconnects and subscribes again behind its caller's back. Here every SUBSCRIBE, and above all its
acknowledgement, matters (see `resume`), so this stands one floor lower, on redis-py's `Connection`.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from time import monotonic
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

_QUIET_S = 15.0
"""Silence after which Redis is asked for a sign of life, and after twice of which it is given up."""
_READ_S = 1.0
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 2.0
_CHANNELS_PER_COMMAND = 500


class Listener(Protocol):
    """Called from the doorbell's one thread; must not block."""

    def acknowledged(self, channel: str) -> None:
        """From now on what is published on `channel` arrives; again after each reconnect."""

    def rang(self, channel: str, payload: str) -> None: ...

    def lost(self) -> None:
        """The connection broke: no channel is subscribed to any more."""


class Doorbell:
    """Subscribes to what it is told to, for ever: it reconnects with backoff and subscribes again."""

    def __init__(self, url: str, listener: Listener) -> None:
        self._client = redis.Redis.from_url(
            url,
            protocol=2,
            decode_responses=True,
            socket_timeout=5.0,
            socket_connect_timeout=2.0,
            socket_keepalive=True,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
        )
        self._listener = listener
        self._lock = threading.Lock()
        self._channels: set[str] = set()
        self._unacknowledged: Counter[str] = Counter()
        """SUBSCRIBEs under way. With UNSUBSCRIBEs in between, only the last acknowledgement counts."""
        self._connection: Any = None
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="doorbell", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._hang_up()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def subscribe(self, channel: str) -> None:
        """Its acknowledgement comes later, or never while Redis is down. Never raises."""
        with self._lock:
            self._channels.add(channel)
            self._send("SUBSCRIBE", channel)

    def unsubscribe(self, channel: str) -> None:
        with self._lock:
            self._channels.discard(channel)
            self._send("UNSUBSCRIBE", channel)

    def _send(self, command: str, *channels: str) -> None:
        if self._connection is None:
            return
        if command == "SUBSCRIBE":
            self._unacknowledged.update(channels)
        try:
            self._connection.send_command(command, *channels, check_health=False)
        except (redis.RedisError, OSError) as error:
            # The thread that reads finds out too, and then subscribes to all channels again.
            log.debug("can't send %s: %s", command, error, extra={"action": "doorbell_send_failed"})

    def _run(self) -> None:
        delay = _FIRST_DELAY_S
        while not self._stopped.is_set():
            error = self._listen_until_lost()
            if self.connected:
                delay = _FIRST_DELAY_S
                log.warning("lost Redis, trying again: %s", error, extra={"action": "doorbell_lost"})
            self._hang_up()
            self._listener.lost()
            self._stopped.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311  (spreads the load, hides nothing)
            delay = min(2 * delay, _LAST_DELAY_S)

    def _listen_until_lost(self) -> Exception | None:
        try:
            self._listen()
        except (redis.RedisError, OSError, ValueError) as error:
            return error
        return None

    def _listen(self) -> None:
        connection: Any = self._client.connection_pool.make_connection()
        connection.connect()
        with self._lock:
            self._connection = connection
            self._unacknowledged.clear()
            channels = sorted(self._channels)
            for start in range(0, len(channels), _CHANNELS_PER_COMMAND):
                self._send("SUBSCRIBE", *channels[start : start + _CHANNELS_PER_COMMAND])
        log.info("the doorbell is connected", extra={"action": "doorbell_connected"})
        heard = asked = monotonic()
        while not self._stopped.is_set():
            if connection.can_read(timeout=_READ_S):
                self._dispatch(connection.read_response())
                heard = monotonic()
            elif monotonic() - heard > 2 * _QUIET_S:
                raise redis.TimeoutError(f"Redis was silent for {2 * _QUIET_S:.0f} s")
            elif monotonic() - max(heard, asked) > _QUIET_S:
                asked = monotonic()
                with self._lock:
                    self._send("PING")

    def _dispatch(self, response: Any) -> None:
        match response:
            case ["message", str(channel), str(payload)]:
                self._listener.rang(channel, payload)
            case ["subscribe", str(channel), _]:
                if self._is_last_acknowledgement(channel):
                    self._listener.acknowledged(channel)

    def _is_last_acknowledgement(self, channel: str) -> bool:
        with self._lock:
            self._unacknowledged[channel] -= 1
            if self._unacknowledged[channel] > 0:
                return False
            del self._unacknowledged[channel]
            return channel in self._channels

    def _hang_up(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
