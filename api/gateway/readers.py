"""Threads that read Postgres and Redis on behalf of subscribers, so that neither the doorbell nor a socket waits.

They are few: a storm of reconnects shares them, and the database, in turns.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from infra.errors import UnavailableError

log = logging.getLogger(__name__)

REST_S = 0.5

Job = Callable[[], bool]
"""Does one bounded piece of work. True: there is more, queue it again behind the others."""


class Readers:
    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._stopped = threading.Event()

    def start(self) -> None:
        for number in range(self._threads):
            threading.Thread(target=self._run, name=f"reader-{number}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        for _ in range(self._threads):
            self._jobs.put(None)

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped.is_set():
            if self._attempt(job):
                self._jobs.put(job)

    def _attempt(self, job: Job) -> bool:
        try:
            return job()
        except UnavailableError as error:
            log.warning("reading for a subscriber is put off: %s", error, extra={"action": "read_failed"})
            # The database does not answer, so nobody else would get further in this time.
            self._stopped.wait(REST_S)
            return True
        except Exception:
            log.exception("reading for a subscriber failed", extra={"action": "read_broken"})
            return False
