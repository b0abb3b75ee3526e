"""Work that follows a commit and must not hold up who committed: a bounded queue with a thread of its own.

Used for doorbells only (publishes, wake-ups): when the queue is full the oldest entries are dropped with a line in
the log, and whoever waits for them finds out by looking at Postgres.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Outbox(Generic[T]):
    """Hands batches of items, in order, to `deliver` on a background thread (a greenlet under gevent).

    `deliver` gets 1 … `batch` items. An exception of it is logged and drops that batch: at-most-once.
    """

    def __init__(self, name: str, deliver: Callable[[list[T]], None], *, bound: int = 10_000, batch: int = 256) -> None:
        self._name = name
        self._deliver = deliver
        self._bound = bound
        self._batch = batch
        self._items: deque[T] = deque()
        # A plain lock: under gevent the default, an RLock, is several times dearer, and nothing here enters twice.
        self._changed = threading.Condition(threading.Lock())
        self._pid = 0
        self._busy = False
        self._failing = False
        self._dropping = False

    def put(self, item: T) -> None:
        """Never blocks on the network and never raises."""
        with self._changed:
            if len(self._items) >= self._bound:
                self._items.popleft()
                if not self._dropping:
                    log.warning("%s: full, drops the oldest", self._name, extra={"action": "outbox_dropped"})
                self._dropping = True
            self._items.append(item)
            self._changed.notify_all()
        self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until everything put so far was delivered (or dropped). False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._items and not self._busy, timeout)

    def _start(self) -> None:
        # Started on first use, so that a process which forks afterwards (gunicorn) gets a thread of its own.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._items))
                batch = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
                self._busy = True
            self._attempt(batch)
            with self._changed:
                self._busy = False
                self._dropping = self._dropping and bool(self._items)
                self._changed.notify_all()

    def _attempt(self, batch: list[T]) -> None:
        try:
            self._deliver(batch)
            if self._failing:
                log.info("%s: delivers again", self._name, extra={"action": "outbox_recovered"})
            self._failing = False
        except Exception as error:  # noqa: BLE001  (a doorbell may be lost; its thread may not)
            if not self._failing:
                log.warning("%s: can't deliver: %s", self._name, error, extra={"action": "outbox_failed"})
            self._failing = True
