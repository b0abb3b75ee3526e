"""How a worker goes: within DRAIN_S, whatever hangs. Every task of it goes on elsewhere.

TERM   a crash that announces itself: somebody comes after us on this host. What is about to be pushed or recorded may
       end, for ENDINGS_S; all others work on meanwhile. Then the links are cut, the row says that we have left, and
       the process ends, which frees its lock. Its running sandboxes are adopted by who gets that lock; after GRACE_S
       without one, the sweep of any host gives the tasks to others, and the sandboxes end by themselves
INT    nobody comes after us, as when `farhand up` ends: sandboxes are killed, tasks are pending at once

Who dies when: we ourselves, anywhere: the lock is free as after any death, and what the row does not say yet is a death
that counts. Postgres: the row can't say that we leave; the successor needs no row for that, others wait for our ttl.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from infra.errors import UnavailableError
from infra.services import Services
from infra.tasks import transitions
from workers.attempt import Attempt
from workers.endings import HandOver
from workers.pool import Pool
from workers.runs import Runs

log = logging.getLogger(__name__)

ENDINGS_S = 3.0
GRACE_S = 5.0
"""So long our tasks are our successor's to take; then anybody's."""
HAND_OVER_S = 6.0
"""Where nobody comes after us the attempts have this long to end in good order; then their tasks are given away."""
DRAIN_S = 8.0
"""After TERM the process is gone within this time, whatever hangs."""


class Departure:
    """`say_left` writes that we leave, with the seconds that our tasks stay ours. `asked` may be called in a signal
    handler: under gevent one may run in the hub, where nothing may block."""

    def __init__(self, services: Services, runs: Runs, say_left: Callable[[float], None]) -> None:
        self._services = services
        self._runs = runs
        self._say_left = say_left
        self._for_good = False
        self.begun = threading.Event()

    def ask(self, *, for_good: bool) -> None:
        """Begin to leave."""
        self._for_good = self._for_good or for_good
        self.begun.set()

    def run(self, pool: Pool) -> None:
        """On a thread of its own: waits until it is asked for, and does not return."""
        self.begun.wait()
        threading.Thread(target=self._exit_at_last, name="drain", daemon=True).start()
        patience = HAND_OVER_S if self._for_good else ENDINGS_S
        deadline = time.monotonic() + patience
        closing = threading.Thread(target=pool.close, args=(patience,), name="close pool", daemon=True)
        closing.start()
        try:
            if self._for_good:
                self._end_all()
            else:
                self._leave_all()
        except UnavailableError as error:
            log.warning("left without a word: %s", error, extra={"action": "drain_unsaid"})
        closing.join(max(0.0, deadline - time.monotonic()))
        self._services.bus.outbox.flush(0.5)
        self._services.wake_ups.outbox.flush(0.5)
        # Nothing of ours is left to do; Celery's warm shutdown would take seconds to find that out.
        logging.shutdown()
        os._exit(0)

    def _leave_all(self) -> None:
        self._runs.wait_until(lambda attempts: not any(attempt.is_ending for attempt in attempts), ENDINGS_S)
        attempts = self._runs.all
        begun = {attempt for attempt in attempts if attempt.leave()}
        log.info("left %d sandboxes to whoever comes", len(begun), extra={"action": "sandboxes_left"})
        self._say_left(GRACE_S)
        for attempt in attempts:
            # Of one that is ending the successor sees that its sandbox is gone.
            if attempt not in begun and not attempt.is_ending:
                self._give_away(attempt)

    def _end_all(self) -> None:
        self._runs.end_all(HandOver())
        self._runs.wait_until(lambda attempts: not attempts, HAND_OVER_S)
        for attempt in self._runs.all:
            self._give_away(attempt)
        self._say_left(0)

    def _give_away(self, attempt: Attempt) -> None:
        """Of its sandbox, if there is one, nothing has been heard: it is a leftover now."""
        with self._services.tasks.transaction() as tx:
            transitions.hand_over(tx, attempt.lease, "handed_over")

    def _exit_at_last(self) -> None:
        time.sleep(DRAIN_S)
        log.error("something did not end in time: leaving it behind", extra={"action": "drain_forced"})
        os._exit(1)
