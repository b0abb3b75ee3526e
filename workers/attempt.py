"""One attempt: from the claim to the end, whatever the end is.

    claimed ─► sandbox started  ┐
               workspace ready  ┴─► job assigned ─► the loop runs ─► an ending ─► sandbox removed ─► ending recorded

The sandbox and the workspace are prepared at the same time. Whoever notices an ending first (the loop that is done,
the user's cancel, the clock, a lost lease, a shutdown, a dead sandbox) decides; the sandbox is dead before anything
is recorded about it, so nothing can be written after the end.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import extract, func, select

from agent_runtime.protocol import Failure
from infra.db import patiently
from infra.errors import AuthorityLostError, FarhandError, InvalidInputError, TaskFailedError, UnavailableError
from infra.services import Services
from infra.tables import Task
from infra.tasks import records, transitions
from infra.tasks.log import TaskRow, Transaction
from infra.tasks.ownership import MAX_DEATHS
from infra.tasks.transitions import Lease
from workers.admission import refuse_unsafe
from workers.egress.server import EgressServer
from workers.endings import Broken, Cancelled, Ending, Finished, HandOver, Lost, OutOfTime, SandboxDied
from workers.publication import Publisher
from workers.relay.calls import choose_route
from workers.relay.link import Link
from workers.relay.server import LinkServer
from workers.sandbox import directory
from workers.sandbox.base import Driver, Sandbox, SandboxSpec
from workers.workspace import Progress, Workspace, Workspaces

if TYPE_CHECKING:
    from workers.relay.upstream import Upstream

log = logging.getLogger(__name__)

OUTAGE_REST_S = 5.0
"""How long a task rests when what this host needs for it (Postgres, the engine) is away."""

_OUT_OF_TIME: Failure = {
    "code": "time_limit_reached",
    "message": "the attempt used up its wall clock",
    "hint": "Retry the task: it goes on from its last step. FARHAND_TASK_WALL_CLOCK is the limit.",
}


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all attempts of one worker process share. `suspended`: the worker is past its own deadline."""

    services: Services
    workspaces: Workspaces
    driver: Driver
    bundle: Path
    upstream: Upstream | None
    suspended: Callable[[], bool]


class Attempt:
    """Runs one claimed task. `run` is called once; `end` may be called from any thread, any number of times."""

    def __init__(self, equipment: Equipment, lease: Lease, task: TaskRow) -> None:
        services = equipment.services
        self._services = services
        self._settings = services.settings
        self._workspaces = equipment.workspaces
        self._driver = equipment.driver
        self._upstream = equipment.upstream
        self.lease = lease
        self.task = task
        sandbox_id = directory.new_sandbox_id()
        path = directory.path_of(self._settings.run_dir.absolute(), sandbox_id)
        self._spec = SandboxSpec(sandbox_id, path, equipment.bundle)
        self._endings: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self._link = Link(
            services,
            lease,
            on_finish=lambda finish: self.end(Finished(finish)),
            on_lost=lambda: self.end(Lost()),
            suspended=equipment.suspended,
        )
        self._egress = EgressServer(path / "link", equipment.suspended)
        self._publisher = Publisher(services, equipment.workspaces, lease, task)
        self._workspace: Workspace | None = None
        self._preparation = threading.Thread(target=self._prepare, name=f"prepare {task.id}", daemon=True)
        self._scratch = self._settings.run_dir / "t" / sandbox_id
        self._known_dead = True

    def end(self, ending: Ending) -> None:
        """Tell the attempt to end. The first ending wins."""
        self._endings.put(ending)
        if isinstance(ending, Cancelled):
            self._link.cancelled.set()

    def run(self) -> None:
        """Returns when the ending is recorded (or the lease is gone) and nothing of the sandbox is left."""
        try:
            ending = self._run_sandbox()
            if not isinstance(ending, Lost):
                self._record(ending)
        except AuthorityLostError:
            log.warning("lost the task to another attempt", extra=self._about("authority_lost"))
        finally:
            self._clean_up()

    # ---- the sandbox -------------------------------------------------------------------------------------------

    def _run_sandbox(self) -> Ending:
        server = LinkServer(self._link, self._spec.directory / "link")
        sandbox: Sandbox | None = None
        try:
            refuse_unsafe(self._services, self._driver, self.task)
            with self._services.tasks.transaction() as tx:
                # Named before it exists, so that whoever cleans up knows whose it is.
                records.record_sandbox(tx, self.lease, self._spec.id)
            directory.make(self._settings.run_dir, self._spec.id)
            server.start()
            self._egress.start()
            self._preparation.start()
            sandbox = self._driver.start(self._spec)
            threading.Thread(target=self._watch, args=(sandbox,), name=f"watch {self.task.id}", daemon=True).start()
            ending = self._next_ending()
        except Exception as error:  # noqa: BLE001  (whatever it is, the attempt ends with it)
            ending = Broken(error)
        finally:
            self._remove(server, sandbox)
        return ending

    def _next_ending(self) -> Ending:
        try:
            return self._endings.get(timeout=self._settings.task_wall_clock)
        except queue.Empty:
            return OutOfTime()

    def _remove(self, server: LinkServer, sandbox: Sandbox | None) -> None:
        """Kill first: from here on the sandbox can say nothing more. One that can't be killed has lost its link."""
        self._egress.cut()
        try:
            if sandbox is not None:
                sandbox.kill()
        except Exception:
            self._known_dead = False
            log.exception("can't kill a sandbox", extra=self._about("sandbox_not_killed"))
        server.stop()
        self._link.close()
        self._egress.settle()
        try:
            if sandbox is not None:
                sandbox.remove()
            else:
                self._driver.remove(self._spec.id)
        except Exception:
            # The sweep removes what is left; the attempt's result must not depend on it.
            log.exception("can't remove a sandbox", extra=self._about("sandbox_not_removed"))

    def _clean_up(self) -> None:
        """A clone that was cut short may still write where the sandbox was; the ending did not wait for it."""
        if self._preparation.ident is not None:
            self._preparation.join()
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.rmtree(self._spec.directory, ignore_errors=True)

    def _prepare(self) -> None:
        """In a thread of its own: bring the repository, then hand out the job."""
        try:
            progress = Progress(self._services, self.lease)
            self._workspace = self._workspaces.prepare(self.lease, self.task, progress)
            tree = self._workspaces.fill(
                self._workspace, self.task.id, self._spec.directory / "in", self._scratch / "in"
            )
            egress = self._egress.assign(self._services, self.lease, self.task.project_id, self._link.lost)
            job = self._workspaces.job(self.lease, self.task, self._workspace, tree, egress)
            route = choose_route(self.task.model, self._settings, self._upstream)
            self._link.assign(job, route)
        except AuthorityLostError:
            self.end(Lost())
        except Exception as error:  # noqa: BLE001  (it is recorded as the attempt's ending)
            self.end(Broken(error))

    def _watch(self, sandbox: Sandbox) -> None:
        """In a thread of its own: notice that the sandbox is gone."""
        try:
            died = sandbox.wait(self._settings.task_wall_clock)
        except Exception as error:  # noqa: BLE001  (it is recorded as the attempt's ending)
            self.end(Broken(error))
        else:
            if died is not None:
                self.end(SandboxDied(died))

    # ---- the ending --------------------------------------------------------------------------------------------

    def _record(self, ending: Ending) -> None:
        log.info("attempt ends: %s", type(ending).__name__, extra=self._about("attempt_ends"))
        try:
            self._carry_out(ending)
        except AuthorityLostError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, the attempt ends with it)
            self._break(error)

    def _carry_out(self, ending: Ending) -> None:
        match ending:
            case Finished(finish) if finish["error"] is None:
                self._complete(finish["final_message"])
            case Finished(finish):
                self._fail(finish["error"])
            case Cancelled():
                self._confirm_cancelled()
            case OutOfTime():
                self._fail(_OUT_OF_TIME)
            case HandOver():
                self._persist(lambda tx: transitions.hand_over(tx, self.lease, "handed_over"))
            case SandboxDied(died):
                self._count_death(
                    {
                        "code": "sandbox_out_of_memory" if died.oom else "sandbox_died",
                        "message": f"the sandbox died: {died.detail}",
                        "hint": "Retry the task. If memory ran out, FARHAND_SANDBOX_MEMORY_BYTES is its limit.",
                    }
                )
            case Broken(error):
                self._break(error)

    def _complete(self, final_message: str) -> None:
        workspace = self._workspace
        assert workspace is not None  # a job was assigned, so there is one  # noqa: S101
        try:
            work = patiently(lambda: self._publisher.keep_patch(workspace, self._scratch / "out"))
            if work is not None:
                patiently(lambda: self._publisher.push(workspace, work))
        except TaskFailedError as error:
            failure = error.as_failure()
            self._persist(lambda tx: transitions.fail(tx, self.lease, failure))
            return
        self._persist(lambda tx: self._complete_or_go_on(tx, final_message))

    def _complete_or_go_on(self, tx: Transaction, final_message: str) -> None:
        """A message that came after the loop's end is not stranded: the task goes on with it."""
        if not transitions.complete(tx, self.lease, final_message):
            transitions.hold(tx, self.lease)
            transitions.hand_over(tx, self.lease, "message")

    def _fail(self, error: Failure | None) -> None:
        self._keep_patch()
        failure = error or FarhandError("the loop ended without a reason").as_failure()
        self._persist(lambda tx: transitions.fail(tx, self.lease, failure))

    def _confirm_cancelled(self) -> None:
        def confirm(tx: Transaction) -> None:
            since = select(extract("epoch", func.clock_timestamp() - Task.cancel_requested_at)).where(*self.lease.held)
            seconds = tx.connection.execute(since).scalar_one_or_none() if self._known_dead else None
            milliseconds = None if seconds is None else round(seconds * 1000)
            transitions.confirm_cancelled(tx, self.lease, confirmed_dead_ms=milliseconds)

        self._persist(confirm)

    def _break(self, error: Exception) -> None:
        if isinstance(error, TaskFailedError | InvalidInputError):
            self._fail(error.as_failure())
        elif isinstance(error, UnavailableError):
            log.warning("attempt broke: %s", error, extra=self._about("attempt_broke"))
            self._wait_out(error)
        elif isinstance(error, FarhandError):
            log.warning("attempt broke: %s", error, extra=self._about("attempt_broke"))
            self._count_death(error.as_failure())
        else:
            log.error("attempt broke", exc_info=error, extra=self._about("attempt_broke"))
            self._count_death(FarhandError(f"the worker failed: {error!r}").as_failure())

    def _wait_out(self, error: UnavailableError) -> None:
        """An outage is nobody's fault and counts as no death; the user sees what the task waits for."""
        said = ("error", {"code": error.code, "message": f"{error.message}; trying again in {OUTAGE_REST_S:.0f} s"})
        self._persist(lambda tx: transitions.hand_over(tx, self.lease, "outage", said, rest=OUTAGE_REST_S))

    def _count_death(self, error: Failure) -> None:
        self._persist(
            lambda tx: transitions.give_back_after_death(tx, self.lease, limit=MAX_DEATHS, error=error),
        )

    def _keep_patch(self) -> None:
        """The work so far can be read whatever the end was; if even that fails, the end is still recorded."""
        if self._workspace is None:
            return
        try:
            self._publisher.keep_patch(self._workspace, self._scratch / "out")
        except AuthorityLostError:
            raise
        except Exception as error:  # noqa: BLE001
            log.warning("can't keep the patch: %s", error, extra=self._about("patch_not_kept"))

    def _persist(self, write: Callable[[Transaction], object]) -> None:
        """Write an ending however long Postgres is away: only the lease decides whether it still counts."""

        def once() -> None:
            with self._services.tasks.transaction() as tx:
                write(tx)

        patiently(once)

    def _about(self, action: str) -> dict[str, object]:
        return {"action": action, "task_id": self.task.id, "attempt": self.lease.attempt}
