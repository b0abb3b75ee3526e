"""One worker process: its lease, its running attempts, and how it comes and goes.

Heartbeat   every 3 s the worker's row is pushed forward by the ttl, on a connection of its own.
Suspended   once its own clock says that the ttl has passed: no model call and no claim until the next heartbeat.
Swept       a heartbeat that finds the row marked means that every task was given away: kill all, register anew.
TERM        the links are cut and the sandboxes left running for our successor. `workers.departure` says how.
KILL        who gets our lock (the process started in our place, or a sibling) adopts our tasks (`workers.heir`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

import redis

from agent_runtime.bundle import write_bundle
from agent_runtime.protocol import VERSION
from infra.bus import CANCEL_CHANNEL, connect
from infra.db import Database
from infra.errors import AuthorityLostError, UnavailableError
from infra.services import Services
from infra.tasks import ownership, transitions, turns
from infra.tasks.log import TaskRow
from infra.tasks.takeover import Adoption
from infra.tasks.transitions import Lease
from workers.attempt import Attempt, Equipment
from workers.departure import Departure
from workers.endings import Cancelled, HandOver, Lost
from workers.engine_doubt import EngineDoubt
from workers.heir import Heir
from workers.image_desk import ImageDesk
from workers.lifetime import Lifetime
from workers.open_files import allow_open_files
from workers.pool import Pool
from workers.process_lock import first_free_lock
from workers.pull_requests.desk import Desk
from workers.relay.routes import open_upstream
from workers.room import Room
from workers.runs import Runs
from workers.sandbox.base import Driver
from workers.starts import Starts
from workers.sweep import Sweeper
from workers.workspace import Workspaces

log = logging.getLogger(__name__)

HEARTBEAT_S = 3.0
BEATS_A_TTL = 3
"""At least so many heartbeats are tried before others take us for dead, however short the ttl is."""
CANCEL_POLL_S = 1.0
DESKS = 2
"""Pull requests that one worker sees to at a time, besides those at the end of its attempts."""
SEAT_PATIENCE_S = 1.0
"""A wake-up waits so long for a seat while adopted tasks sit on them all; then it is another worker's to use."""


class WorkerHost:
    """Claims tasks and runs their attempts in this process."""

    def __init__(
        self, services: Services, driver: Driver, *, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._services = services
        self._settings = services.settings
        self._driver = driver
        self._name = name
        self._clock = clock
        self._runtime: str | None = None
        self._pulse = Database(self._settings.database_url, pool_size=1, max_overflow=0)
        self._beat_s = min(HEARTBEAT_S, self._settings.lease_ttl / BEATS_A_TTL)
        self._tick_s = min(CANCEL_POLL_S, self._beat_s)
        self._runs = Runs(self._settings.worker_slots)
        self._strays: set[UUID] = set()
        self._broken: set[UUID] = set()
        """Leases of attempts that ended by a bug, and so without a word."""
        self._departure = Departure(services, self._runs, self._say_left)
        self._draining = self._departure.begun
        self._gone = threading.Event()
        self._lifetime = Lifetime(self._settings.lease_ttl, clock=clock)
        self.worker_id: UUID | None = None
        self._sweeper = Sweeper(services, driver, may_act=self._lifetime.may_judge)
        self._room = Room(services, worker=name)
        self._doubt = EngineDoubt(services, driver, worker=name)
        self._desks = (*(self._see_to_pull_requests,) * DESKS, self._look_at_images)

    # ---- coming and going --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register and begin to beat, listen and sweep. Raises FarhandError when the host can't run sandboxes."""
        self._doubt.check_at_start()
        allow_open_files(self._settings.worker_slots + self._settings.warm_sandboxes)
        bundle = write_bundle(self._settings.run_dir / "runtime")
        self._pool = Pool(self._driver, self._settings.run_dir, bundle, self._settings.warm_sandboxes)
        heir = Heir(self._services, self._driver, self._runs, runtime=bundle.name, adopt=self._adopt)
        self._runtime = bundle.name
        self._equipment = Equipment(
            self._services,
            Workspaces(self._services),
            self._driver,
            self._pool,
            Starts(self._settings.concurrent_starts),
            bundle,
            open_upstream(self._settings),
            suspended=self.suspended,
            doubt_engine=self._doubt.doubt,
        )
        self._lock = first_free_lock(self._settings.run_dir)
        heir.succeed(self._lock, self._register())
        for loop in (self._beat, self._listen_for_cancels, self._sweeper.run, *self._desks):
            self._spawn(loop)
        self._spawn(self._departure.run, self._pool)
        self._spawn(heir.watch, self._draining, lambda: None if self.suspended() else self.worker_id)
        self._pool.start()

    def stop(self, *, for_good: bool = False) -> None:
        """Begin to leave; `for_good`: nobody comes after us. For signal handlers: nothing here blocks."""
        self._departure.ask(for_good=for_good)

    def _spawn(self, loop: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=loop, args=arguments, name=loop.__qualname__, daemon=True).start()

    def _say_left(self, seconds: float) -> None:
        self._gone.set()
        with self._pulse.begin() as connection:
            ownership.leave(connection, self._registered(), seconds=seconds)

    # ---- work --------------------------------------------------------------------------------------------------

    def run(self, named: UUID) -> Lease | None:
        """Run one attempt to the end, for a wake-up that names a task: whoever's turn it is. None: nobody's."""
        if not self._runs.take_seat(SEAT_PATIENCE_S):
            self._pass_on(named)
            return None
        try:
            claimed = self._claim(named)
            if claimed is None:
                return None
            attempt = Attempt(self._equipment, *claimed)
            if self._draining.is_set():
                attempt.end(HandOver())
            self._see_through(attempt)
        finally:
            self._runs.give_seat()
        return attempt.lease

    def _adopt(self, adoption: Adoption) -> None:
        """Go on with it in a thread of its own. It has a seat, as the heir took one for it."""

        def run() -> None:
            try:
                attempt = Attempt(self._equipment, adoption.lease, adoption.task, adopted=adoption.sandbox_id)
                self._see_through(attempt)
            finally:
                self._runs.give_seat()

        threading.Thread(target=run, name=f"adopted {adoption.task.id}", daemon=True).start()

    def _see_through(self, attempt: Attempt) -> None:
        about = {"action": "attempt_starts", "task_id": attempt.task.id, "attempt": attempt.lease.attempt}
        log.info("attempt starts", extra=about)
        try:
            with self._runs.entered(attempt):
                attempt.run()
        except Exception:
            self._broken.add(attempt.lease.token)
            raise
        finally:
            self._wake_next()

    def _claim(self, task_id: UUID) -> tuple[Lease, TaskRow] | None:
        """None when it is not to be had. While Postgres is away its wake-up waits here, in a slot of no other use."""
        while not self._draining.is_set():
            if not self.suspended():
                try:
                    declined = self._room.declines(task_id) or self._doubt.declines(task_id)
                    return None if declined else self._claim_now(task_id)
                except UnavailableError as error:
                    log.warning("can't claim: %s", error, extra={"action": "claim_failed", "task_id": task_id})
            self._draining.wait(self._tick_s)
        self._pass_on(task_id)
        return None

    def _claim_now(self, task_id: UUID) -> tuple[Lease, TaskRow] | None:
        return turns.claim_next(
            self._services.tasks,
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
                turns.mark_unsent(connection, task_id)
        except UnavailableError as error:
            log.warning("lost a wake-up: %s", error, extra={"action": "wake_up_lost", "task_id": task_id})

    def _wake_next(self) -> None:
        """For what this attempt made room for: the same task again, or whoever is first in the line."""
        try:
            with self._services.database.read() as connection:
                waiting = turns.head(connection, user_limit=self._settings.max_concurrent_tasks)
        except UnavailableError as error:
            log.warning("leaving a wake-up to the sweep: %s", error, extra={"action": "wake_up_lost"})
            return
        for task_id, attempt in waiting:
            self._services.wake_ups.send(task_id, attempt)

    def _see_to_pull_requests(self) -> None:
        Desk(self._services).run(self._draining)

    def _look_at_images(self) -> None:
        ImageDesk(self._services, self._driver).run(self._draining)

    # ---- authority ---------------------------------------------------------------------------------------------

    def suspended(self) -> bool:
        """Past our own deadline: others may believe that we are dead."""
        return self._lifetime.suspended()

    def _registered(self) -> UUID:
        assert self.worker_id is not None  # before anything can ask for it  # noqa: S101
        return self.worker_id

    def _register(self) -> UUID:
        started = self._clock()
        with self._pulse.begin() as connection:
            worker_id = ownership.register(
                connection,
                name=self._name,
                slots=self._settings.worker_slots,
                protocol_version=VERSION,
                runtime=self._runtime,
                ttl=self._settings.lease_ttl,
            )
        self.worker_id = worker_id
        self._lifetime.beaten(started)
        return worker_id

    def _beat(self) -> None:
        """Until we are gone, also while attempts are handed over: nobody shall take us for dead meanwhile."""
        last = self._clock()
        while not self._gone.wait(self._tick_s):
            try:
                if self._clock() - last >= self._beat_s:
                    last = self._clock()
                    self._heartbeat(last)
                else:
                    self._poll_cancels()
            except UnavailableError as error:
                self._lifetime.missed()
                log.warning("no heartbeat: %s", error, extra={"action": "heartbeat_failed"})
            except Exception:
                self._lifetime.missed()
                log.exception("a heartbeat broke", extra={"action": "heartbeat_failed"})

    def _heartbeat(self, started: float) -> None:
        with self._pulse.begin() as connection:
            beat = ownership.heartbeat(connection, self._registered(), ttl=self._settings.lease_ttl)
        if self._gone.is_set():
            return
        if not beat.alive:
            log.error("this worker was taken for dead: all its tasks are elsewhere", extra={"action": "worker_swept"})
            self._runs.end_all(Lost())
            self._lock.name(self._register())
            return
        self._lifetime.beaten(started)
        self._cancel(beat.cancelled)
        self._give_back_strays(beat.held)

    def _give_back_strays(self, held: tuple[Lease, ...]) -> None:
        """What is ours in the database and runs nowhere, since the answer to its claim was lost or its attempt broke.

        Looked at twice, as one may just have been claimed, or have ended.
        """
        unknown = {lease.token: lease for lease in held if not self._runs.has(lease.token)}
        for lease in (unknown[token] for token in unknown.keys() & self._strays):
            log.error("nobody runs a task of ours", extra={"action": "task_astray", "task_id": lease.task_id})
            with contextlib.suppress(AuthorityLostError), self._services.tasks.transaction() as tx:
                if lease.token in self._broken:
                    transitions.give_back_after_death(tx, lease, error=transitions.POISONED)
                else:
                    transitions.hand_over(tx, lease, "outage")
        self._strays = set(unknown)
        self._broken &= self._strays

    def _poll_cancels(self) -> None:
        if self._runs.all:
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
                        if ring is not None and self._runs.of_task(UUID(ring["data"])):
                            self._poll_cancels()
            except (redis.RedisError, UnavailableError, ValueError):
                self._gone.wait(CANCEL_POLL_S)

    def _cancel(self, task_ids: tuple[UUID, ...]) -> None:
        for task_id in task_ids:
            for attempt in self._runs.of_task(task_id):
                attempt.end(Cancelled())
