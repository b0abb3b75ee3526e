"""The warm pool: sandboxes that are started before there is a task for them.

Everything of a sandbox is in it: its container runs, its loop has asked for a job. A task that gets one waits for the
container's start no more. `linked_sandbox` has the states, and what happens when something dies.

    take         hands out the oldest that waits, or None: then the attempt starts one cold, as without a pool
    refill       by one thread, one at a time, SETTLE_S after one was taken: starting containers must not slow down the
                 attempt that has just got one. A start that fails is followed by a rest, longer each time
    recycle      what is older than MAX_AGE_S, or made from an image that its name no longer points to, is replaced.
                 The runtime's bundle can't change under a worker: it is the one that its own code was started with
    shutdown     `close` removes what waits. A worker that dies leaves it to the next sweep of its host

A worker that has lost touch with Postgres keeps its pool: what waits knows no task, holds no lease, and says nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import FarhandError
from workers.linked_sandbox import LinkedSandbox
from workers.sandbox.base import Driver, Exit
from workers.sandbox.hold import hold_new

log = logging.getLogger(__name__)

MAX_AGE_S = 1800.0
SETTLE_S = 0.5
START_S = 60.0
"""A sandbox that has not asked for a job by then never will."""
LOOK_EVERY_S = 10.0
"""So often the age of what waits, and the image that it is made from, are looked at."""
REST_S = (1.0, 60.0)
_CLOSERS = 16


@dataclass(slots=True)
class Counts:
    """Since this worker's start. `discarded` is by reason: age, image, died, shutdown."""

    hits: int = 0
    misses: int = 0
    started: int = 0
    failed: int = 0
    discarded: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        gone = ", ".join(f"{count} {reason}" for reason, count in sorted(self.discarded.items())) or "none"
        return (
            f"{self.hits} hits, {self.misses} misses, {self.started} started, {self.failed} failed, discarded: {gone}"
        )


@dataclass(frozen=True, slots=True)
class _Waiting:
    sandbox: LinkedSandbox
    source: str
    since: float


class Pool:
    """Keeps `size` sandboxes waiting; 0 keeps none and costs nothing. Safe for many threads."""

    def __init__(
        self,
        driver: Driver,
        run_dir: Path,
        bundle: Path,
        size: int,
        *,
        max_age: float = MAX_AGE_S,
        look_every: float = LOOK_EVERY_S,
    ) -> None:
        self._driver = driver
        self._run_dir = run_dir
        self._bundle = bundle
        self._size = size
        self._max_age = max_age
        self._look_every = look_every
        self.counts = Counts()
        self._waiting: list[_Waiting] = []
        self._unwanted: list[LinkedSandbox] = []
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        self._not_before = 0.0
        self._look_at = 0.0
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="warm pool", daemon=True)

    def start(self) -> None:
        """Begin to fill."""
        if self._size > 0:
            self._thread.start()

    @property
    def ready(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self) -> LinkedSandbox | None:
        """One that waits, to have for good; None when there is none. Never blocks on the engine."""
        if self._size == 0:
            return None
        with self._changed:
            while self._waiting:
                one = self._waiting.pop(0)
                self._not_before = max(self._not_before, time.monotonic() + SETTLE_S)
                self._changed.notify_all()
                if one.sandbox.exit is None:
                    self.counts.hits += 1
                    age = time.monotonic() - one.since
                    break
                self._throw_out(one, "died")
            else:
                self.counts.misses += 1
                log.info("no sandbox waits: %s", self.counts, extra={"action": "warm_miss"})
                return None
        log.info("took one after %.0f s: %s", age, self.counts, extra={"action": "warm_hit"})
        return one.sandbox

    def close(self, timeout: float) -> None:
        """Start no more and remove what waits. What that takes more than `timeout` seconds for becomes a leftover."""
        with self._changed:
            self._closing = True
            for one in list(self._waiting):
                self._waiting.remove(one)
                self._throw_out(one, "shutdown")
            unwanted, self._unwanted = self._unwanted, []
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="pool close")
        wait([closers.submit(sandbox.discard) for sandbox in unwanted], timeout)
        closers.shutdown(wait=False, cancel_futures=True)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
            log.info("warm pool closed: %s", self.counts, extra={"action": "warm_closed"})

    # ---- in the pool's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._round()
            except Exception as error:  # noqa: BLE001  (without its thread there would be no pool)
                self._rest(error)
            with self._changed:
                if not self._has_work():
                    self._changed.wait(self._until_due())
        self._discard_unwanted()

    def _round(self) -> None:
        self._discard_unwanted()
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + self._look_every
            self._recycle(now)
        if len(self._waiting) < self._size and now >= self._not_before:
            self._add_one()

    def _has_work(self) -> bool:
        missing = len(self._waiting) < self._size and time.monotonic() >= self._not_before
        return self._closing or bool(self._unwanted) or missing

    def _until_due(self) -> float:
        """Seconds until there may be something to do that nobody tells."""
        now = time.monotonic()
        due = self._look_at if len(self._waiting) >= self._size else min(self._look_at, self._not_before)
        return max(0.01, due - now)

    def _add_one(self) -> None:
        # Asked for before the start: should the name come to mean another image meanwhile, this one counts as old.
        source = self._driver.source()
        sandbox_id, hold = hold_new(self._run_dir)
        sandbox = LinkedSandbox(self._driver, self._run_dir, self._bundle, sandbox_id, hold)
        try:
            sandbox.open()
            sandbox.start()
            if not sandbox.wait_until_it_asks(START_S):
                raise SandboxNotReadyError(_why(sandbox.exit))
        except BaseException:
            sandbox.discard()
            raise
        self._add(_Waiting(sandbox, source, time.monotonic()))

    def _add(self, one: _Waiting) -> None:
        with self._changed:
            self.counts.started += 1
            if self._closing:
                self._throw_out(one, "shutdown")
                return
            self._waiting.append(one)
        one.sandbox.tell_end(lambda _exit: self._lost(one))
        if self._failures:
            log.info("sandboxes start again", extra={"action": "warm_pool_recovered"})
        self._failures = 0

    def _lost(self, one: _Waiting) -> None:
        """It died while it waited. One that somebody has taken is theirs."""
        with self._changed:
            if one in self._waiting:
                self._waiting.remove(one)
                self._throw_out(one, "died")
                # A sandbox that never lives long must not keep the engine busy.
                self._not_before = max(self._not_before, time.monotonic() + REST_S[0])
                log.warning("a waiting sandbox died: %s", _why(one.sandbox.exit), extra={"action": "warm_died"})

    def _recycle(self, now: float) -> None:
        if not self._waiting:
            return
        source = self._driver.source()
        with self._changed:
            for one in list(self._waiting):
                reason = "image" if one.source != source else "age" if now - one.since >= self._max_age else ""
                if reason:
                    self._waiting.remove(one)
                    self._throw_out(one, reason)

    def _throw_out(self, one: _Waiting, reason: str) -> None:
        """Under the lock, of one that waits no more."""
        self.counts.discarded[reason] += 1
        self._unwanted.append(one.sandbox)
        self._changed.notify_all()

    def _discard_unwanted(self) -> None:
        with self._changed:
            unwanted, self._unwanted = self._unwanted, []
        for sandbox in unwanted:
            sandbox.discard()

    def _rest(self, error: Exception) -> None:
        """Say it once, and wait longer each time: the engine, or the image, needs somebody."""
        first, longest = REST_S
        self.counts.failed += 1
        rest = min(longest, first * 2**self._failures)
        self._failures += 1
        self._not_before = time.monotonic() + rest
        if self._failures > 1:
            return
        action = {"action": "warm_pool_paused"}
        if isinstance(error, FarhandError):
            log.warning("no sandbox can be started ahead: %s. %s", error.message, error.hint, extra=action)
        else:
            log.error("no sandbox can be started ahead", exc_info=error, extra=action)


class SandboxNotReadyError(FarhandError):
    """Look at the agent image: it needs `python3` (3.8 or newer) and `git` on its PATH."""

    code = "sandbox_not_ready"


def _why(ended: Exit | None) -> str:
    if ended is None:
        return f"it did not ask for a job within {START_S:.0f} s"
    return f"it ended with {ended.code}{': ' + ended.detail if ended.detail else ''}"
