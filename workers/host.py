"""One worker process: its lease, its running attempts, and how it comes and goes.

Heartbeat   every 3 s the worker's row is pushed forward by the ttl, on a connection of its own.
Suspended   once its own clock says that the ttl has passed: no model call and no claim until the next heartbeat.
Swept       a heartbeat that finds the row marked means that every task was given away: kill all, register anew.
TERM        every attempt is handed over: its sandbox killed, its task pending for another worker. The pool goes.
KILL        who gets our lock (the process that is started in our place) gives our tasks back at once; else the sweep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from uuid import UUID

import redis

from agent_runtime.bundle import write_bundle
from agent_runtime.protocol import VERSION
from infra.bus import CANCEL_CHANNEL, connect
from infra.db import Database
from infra.errors import AuthorityLostError, UnavailableError
from infra.services import Services
from infra.tasks import ownership, transitions
from infra.tasks.log import TaskRow
from infra.tasks.transitions import Lease
from workers.attempt import Attempt, Equipment
from workers.endings import Cancelled, Ending, HandOver, Lost
from workers.image_desk import ImageDesk
from workers.open_files import allow_open_files
from workers.pool import Pool
from workers.process_lock import ProcessLock
from workers.pull_requests.desk import Desk
from workers.relay.calls import open_upstream
from workers.room import Room
from workers.sandbox.base import Driver
from workers.sweep import Sweeper
from workers.workspace import Workspaces

log = logging.getLogger(__name__)

HEARTBEAT_S = 3.0
BEATS_A_TTL = 3
"""At least so many heartbeats are tried before others take us for dead, however short the ttl is."""
CANCEL_POLL_S = 1.0
DESKS = 2
"""Pull requests that one worker sees to at a time, besides those at the end of its attempts."""
HAND_OVER_S = 6.0
"""After TERM the attempts have this long to end in good order; then their tasks are given away as they are."""
DRAIN_S = 8.0
"""After TERM the process is gone within this time, whatever hangs."""


class WorkerHost:
    """Claims tasks and runs their attempts in this process."""

    def __init__(self, services: Services, driver: Driver, *, name: str) -> None:
        self._services = services
        self._settings = services.settings
        self._driver = driver
        self._name = name
        self._pulse = Database(self._settings.database_url, pool_size=1, max_overflow=0)
        self._beat_s = min(HEARTBEAT_S, self._settings.lease_ttl / BEATS_A_TTL)
        self._tick_s = min(CANCEL_POLL_S, self._beat_s)
        self._runs: dict[UUID, Attempt] = {}
        """By lease token: two attempts at one task may meet here, when the first was taken from us and returns."""
        self._strays: set[UUID] = set()
        self._changed = threading.Condition()
        self._draining = threading.Event()
        self._gone = threading.Event()
        self._alive_since = 0.0
        self._alive_until = 0.0
        self.worker_id: UUID | None = None
        self._sweeper = Sweeper(services, driver, may_act=self._has_been_alive)
        self._room = Room(services, worker=name)
        self._desks = (*(self._see_to_pull_requests,) * DESKS, self._look_at_images)

    # ---- coming and going --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register and begin to beat, listen and sweep. Raises FarhandError when the host can't run sandboxes."""
        self._driver.check()
        allow_open_files(self._settings.worker_slots + self._settings.warm_sandboxes)
        bundle = write_bundle(self._settings.run_dir / "runtime")
        self._pool = Pool(self._driver, self._settings.run_dir, bundle, self._settings.warm_sandboxes)
        self._equipment = Equipment(
            self._services,
            Workspaces(self._services),
            self._driver,
            self._pool,
            bundle,
            open_upstream(self._settings),
            suspended=self.suspended,
        )
        self._lock = ProcessLock(self._settings.run_dir)
        self._register()
        if self._lock.predecessor is not None:
            self._sweeper.bury(self._lock.predecessor)
        for loop in (self._beat, self._listen_for_cancels, self._sweeper.run, self._drain, *self._desks):
            threading.Thread(target=loop, name=loop.__qualname__, daemon=True).start()
        self._pool.start()

    def stop(self) -> None:
        """Begin to leave. For signal handlers: under gevent one may run in the hub, where nothing may block."""
        self._draining.set()

    def _drain(self) -> None:
        """Once asked to stop: hand over every attempt and be gone within DRAIN_S."""
        self._draining.wait()
        threading.Thread(target=self._exit_at_last, name="drain", daemon=True).start()
        deadline = time.monotonic() + HAND_OVER_S
        closing = threading.Thread(target=self._pool.close, args=(HAND_OVER_S,), name="close pool", daemon=True)
        closing.start()
        self._end_all(HandOver())
        with self._changed:
            self._changed.wait_for(lambda: not self._runs, HAND_OVER_S)
        try:
            self._let_go()
        except UnavailableError as error:
            log.warning("left without a word: %s", error, extra={"action": "drain_unsaid"})
        closing.join(max(0.0, deadline - time.monotonic()))
        self._services.bus.outbox.flush(0.5)
        self._services.wake_ups.outbox.flush(0.5)
        # Nothing of ours is left to do; Celery's warm shutdown would take seconds to find that out.
        logging.shutdown()
        os._exit(0)

    def _let_go(self) -> None:
        """Give away what did not end (its sandbox is cut off, and a leftover soon), and say that we are gone."""
        for attempt in list(self._runs.values()):
            with self._services.tasks.transaction() as tx:
                transitions.hand_over(tx, attempt.lease, "handed_over")
        self._gone.set()
        with self._pulse.begin() as connection:
            ownership.retire(connection, self._registered(), seconds=0)

    def _exit_at_last(self) -> None:
        time.sleep(DRAIN_S)
        log.error("something did not end in time: leaving it behind", extra={"action": "drain_forced"})
        os._exit(1)

    # ---- work --------------------------------------------------------------------------------------------------

    def run(self, task_id: UUID) -> None:
        """Claim a task and run its attempt to the end. A task that is not to be had is left alone."""
        claimed = self._claim(task_id)
        if claimed is None:
            return
        lease, task = claimed
        log.info("attempt starts", extra={"action": "attempt_starts", "task_id": task_id, "attempt": lease.attempt})
        attempt = Attempt(self._equipment, lease, task)
        with self._changed:
            self._runs[lease.token] = attempt
        try:
            if self._draining.is_set():
                attempt.end(HandOver())
            attempt.run()
        finally:
            with self._changed:
                del self._runs[lease.token]
                self._changed.notify_all()
            self._wake_next(task)

    def _claim(self, task_id: UUID) -> tuple[Lease, TaskRow] | None:
        """None when it is not to be had. While Postgres is away its wake-up waits here, in a slot of no other use."""
        while not self._draining.is_set():
            if not self.suspended():
                try:
                    return None if self._room.declines(task_id) else self._claim_now(task_id)
                except UnavailableError as error:
                    log.warning("can't claim: %s", error, extra={"action": "claim_failed", "task_id": task_id})
            self._draining.wait(self._tick_s)
        self._pass_on(task_id)
        return None

    def _claim_now(self, task_id: UUID) -> tuple[Lease, TaskRow] | None:
        with self._services.tasks.transaction() as tx:
            return transitions.claim(
                tx,
                task_id,
                worker_id=self._registered(),
                worker_name=self._name,
                sandbox=self._driver.kind,
                user_limit=self._settings.max_concurrent_tasks,
            )

    def _pass_on(self, task_id: UUID) -> None:
        """Celery takes one more message after TERM: another worker's sweep shall send it at once."""
        try:
            with self._services.database.begin() as connection:
                ownership.forget_wake_up(connection, task_id)
        except UnavailableError as error:
            log.warning("lost a wake-up: %s", error, extra={"action": "wake_up_lost", "task_id": task_id})

    def _wake_next(self, task: TaskRow) -> None:
        """What this attempt made possible: the same task again, or the next one of its user."""
        try:
            with self._services.database.begin() as connection:
                waiting = ownership.next_of_user(connection, task.user_id)
        except UnavailableError as error:
            log.warning("leaving a wake-up to the sweep: %s", error, extra={"action": "wake_up_lost"})
            return
        for task_id, attempt in waiting:
            self._services.wake_ups.send(task_id, attempt + 1)

    def _see_to_pull_requests(self) -> None:
        Desk(self._services).run(self._draining)

    def _look_at_images(self) -> None:
        ImageDesk(self._services, self._driver).run(self._draining)

    # ---- authority ---------------------------------------------------------------------------------------------

    def suspended(self) -> bool:
        """Past our own deadline: others may believe that we are dead."""
        return time.monotonic() >= self._alive_until

    def _has_been_alive(self) -> bool:
        """Whether heartbeats succeeded for a full ttl: after a Postgres outage everyone looks dead for a moment."""
        return not self.suspended() and time.monotonic() - self._alive_since >= self._settings.lease_ttl

    def _registered(self) -> UUID:
        assert self.worker_id is not None  # before anything can ask for it  # noqa: S101
        return self.worker_id

    def _register(self) -> None:
        started = time.monotonic()
        with self._pulse.begin() as connection:
            worker_id = ownership.register(
                connection,
                name=self._name,
                slots=self._settings.worker_slots,
                protocol_version=VERSION,
                ttl=self._settings.lease_ttl,
            )
        self.worker_id = worker_id
        self._lock.name(worker_id)
        self._alive_since = started
        self._alive_until = started + self._settings.lease_ttl

    def _beat(self) -> None:
        """Until we are gone, also while attempts are handed over: nobody shall take us for dead meanwhile."""
        last = time.monotonic()
        while not self._gone.wait(self._tick_s):
            try:
                if time.monotonic() - last >= self._beat_s:
                    last = time.monotonic()
                    self._heartbeat(last)
                else:
                    self._poll_cancels()
            except UnavailableError as error:
                log.warning("no heartbeat: %s", error, extra={"action": "heartbeat_failed"})
            except Exception:
                log.exception("a heartbeat broke", extra={"action": "heartbeat_failed"})

    def _heartbeat(self, started: float) -> None:
        with self._pulse.begin() as connection:
            beat = ownership.heartbeat(connection, self._registered(), ttl=self._settings.lease_ttl)
        if not beat.alive:
            log.error("this worker was taken for dead: all its tasks are elsewhere", extra={"action": "worker_swept"})
            self._end_all(Lost())
            self._register()
            return
        if self.suspended():
            self._alive_since = started
        self._alive_until = started + self._settings.lease_ttl
        self._cancel(beat.cancelled)
        self._give_back_strays(beat.held)

    def _give_back_strays(self, held: tuple[Lease, ...]) -> None:
        """What is ours in the database and runs nowhere, since the answer to its claim was lost or its attempt broke.

        Looked at twice, as one may just have been claimed, or have ended.
        """
        unknown = {lease.token: lease for lease in held if lease.token not in self._runs}
        for lease in (unknown[token] for token in unknown.keys() & self._strays):
            log.error("nobody runs a task of ours", extra={"action": "task_astray", "task_id": lease.task_id})
            with contextlib.suppress(AuthorityLostError), self._services.tasks.transaction() as tx:
                transitions.give_back_after_death(tx, lease, limit=ownership.MAX_DEATHS, error=ownership.POISONED)
        self._strays = set(unknown)

    def _poll_cancels(self) -> None:
        if self._runs:
            with self._pulse.begin() as connection:
                self._cancel(ownership.cancelled(connection, self._registered()))

    def _listen_for_cancels(self) -> None:
        """The doorbell: it saves up to a second; the poll is what is relied on."""
        while not self._gone.is_set():
            try:
                with connect(self._settings.redis_url).pubsub(ignore_subscribe_messages=True) as doorbell:
                    doorbell.subscribe(CANCEL_CHANNEL)
                    while not self._gone.is_set():
                        ring = doorbell.get_message(timeout=CANCEL_POLL_S)
                        if ring is not None and self._runs_task(UUID(ring["data"])):
                            self._poll_cancels()
            except (redis.RedisError, UnavailableError, ValueError):
                self._gone.wait(CANCEL_POLL_S)

    def _runs_task(self, task_id: UUID) -> bool:
        return any(attempt.task.id == task_id for attempt in list(self._runs.values()))

    def _cancel(self, task_ids: tuple[UUID, ...]) -> None:
        for attempt in list(self._runs.values()):
            if attempt.task.id in task_ids:
                attempt.end(Cancelled())

    def _end_all(self, ending: Ending) -> None:
        for attempt in list(self._runs.values()):
            attempt.end(ending)
