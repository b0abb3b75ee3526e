"""One attempt: from the claim to the end, whatever the end is.

    claimed ─► sandbox taken or started ┐
               workspace ready          ┴─► job handed over ─► the loop runs ─► an ending ─► sandbox gone ─► recorded

A few attempts start at a time (`starts`), each with sandbox and workspace prepared at the same time. Whoever notices an
ending first (the loop that is done, the user's cancel, the clock, a lost lease, a shutdown, a dead sandbox) decides;
the sandbox is dead before anything is recorded about it, so nothing can be written after the end.

An attempt that was taken over from a dead worker (`infra.tasks.takeover`) begins with a loop that runs: it serves that
loop's link again, and asks for the workspace only when it comes to the end. Where the project's environment was changed
meanwhile it hands over instead, and the next attempt resumes with what the project says now.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import extract, func, select

from agent_runtime.protocol import Failure
from infra.agents import AGENTS
from infra.db import patiently
from infra.environment import Environment, environment_of
from infra.errors import AuthorityLostError, FarhandError, InvalidInputError, TaskFailedError, UnavailableError
from infra.services import Services
from infra.tables import Task
from infra.tasks import transitions
from infra.tasks.log import Draft, TaskRow, Transaction
from infra.tasks.transitions import Lease
from workers.admission import refuse_unsafe
from workers.attempt_sandbox import AttemptSandbox
from workers.endings import Broken, Cancelled, Ending, Finished, HandOver, Left, Lost, OutOfTime, SandboxDied
from workers.pool import Pool
from workers.publication import Publisher
from workers.relay.link import Link
from workers.relay.masking import Mask
from workers.sandbox.base import Driver, EngineUnavailableError
from workers.starts import Starts
from workers.workspace import Progress, Workspace, Workspaces

if TYPE_CHECKING:
    from workers.relay.upstream import Upstream

log = logging.getLogger(__name__)

_CANCELLED_PATCH_S = 1.0
"""How long the end of a cancelled task, whose sandbox is dead, waits for the patch of what was done."""

_OUT_OF_TIME: Failure = {
    "code": "time_limit_reached",
    "message": "the attempt used up its wall clock",
    "hint": "Retry the task: it goes on from its last step. FARHAND_TASK_WALL_CLOCK is the limit, or its agent's.",
}


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all attempts of one worker process share.

    `suspended`: the worker is past its own deadline. `doubt_engine` is called when the engine did not answer.
    """

    services: Services
    workspaces: Workspaces
    driver: Driver
    pool: Pool
    starts: Starts
    bundle: Path
    upstream: Upstream | None
    suspended: Callable[[], bool]
    doubt_engine: Callable[[], None]


class Attempt:
    """Runs one claimed task. `run` is called once; `end` may be called from any thread, any number of times."""

    def __init__(self, equipment: Equipment, lease: Lease, task: TaskRow, adopted: str | None = None) -> None:
        """`adopted`: the sandbox of an earlier attempt that goes on in this one."""
        services = equipment.services
        self._services = services
        self._settings = services.settings
        self._workspaces = equipment.workspaces
        self._driver = equipment.driver
        self._doubt_engine = equipment.doubt_engine
        self.lease = lease
        self.task = task
        self._endings: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self._turn = equipment.starts.line_up()
        self._link = Link(
            services,
            lease,
            on_finish=lambda finish: self.end(Finished(finish)),
            on_lost=lambda: self.end(Lost()),
            on_work=self._turn.leave,
            suspended=equipment.suspended,
        )
        self._sandbox = AttemptSandbox(
            equipment,
            lease,
            task,
            self._link,
            on_death=lambda died: self.end(SandboxDied(died)),
            on_trouble=lambda error: self.end(Broken(error)),
        )
        self._publisher = Publisher(services, equipment.workspaces, lease, task)
        self._adopted = adopted
        self._workspace: Workspace | None = None
        self._environment = Environment()
        self._mask = Mask()
        self.is_ending = False
        """Whether its sandbox's part is over: what is left is ours to do, and soon done."""
        self._preparation = threading.Thread(target=self._prepare, name=f"prepare {task.id}", daemon=True)
        self._known_dead = True

    def end(self, ending: Ending) -> None:
        """Tell the attempt to end. The first ending wins."""
        self._endings.put(ending)
        self._turn.leave()
        if isinstance(ending, Cancelled):
            self._link.cancelled.set()

    def run(self) -> None:
        """Returns when the ending is recorded (or the lease is gone) and nothing of the sandbox is left."""
        try:
            ending = self._run_sandbox()
            if not isinstance(ending, Lost | Left):
                self._record(ending)
        except AuthorityLostError:
            log.warning("lost the task to another attempt", extra=self._about("authority_lost"))
        finally:
            self._turn.leave()
            self._clean_up()

    def leave(self) -> bool:
        """Cut the sandbox's link and let its loop run on, for whoever adopts it. False: there is no loop at work."""
        return self._sandbox.leave()

    # ---- the sandbox -------------------------------------------------------------------------------------------

    def _run_sandbox(self) -> Ending:
        try:
            refuse_unsafe(self._services, self._driver, self.task)
            self._environment = patiently(self._read_environment) if self._adopted else self._read_environment()
            self._mask = Mask(self._environment.secrets)
            if self._adopted is not None:
                if not self._sandbox.adopt(self._adopted, self._environment):
                    self.end(HandOver())  # its loop has an environment that is no longer the project's
            elif self._may_start():
                self._preparation.start()
                if self._environment.image is None:
                    self._sandbox.open(self._environment)
            ending = self._next_ending()
        except Exception as error:  # noqa: BLE001  (whatever it is, the attempt ends with it)
            ending = Broken(error)
        finally:
            self.is_ending = True
            # First of all: from here on the sandbox can say nothing more.
            self._known_dead = self._sandbox.close()
        return Left() if self._sandbox.left else ending

    def _may_start(self) -> bool:
        """Once it is this attempt's turn; False when it has ended before."""
        if not self._turn.decided.is_set():
            Progress(self._services, self.lease).report("waiting for other tasks of this worker to start", 0)
        return self._turn.wait()

    def _read_environment(self) -> Environment:
        with self._services.database.read() as connection:
            return environment_of(connection, self.task.project_id, self._services.keys)

    def _next_ending(self) -> Ending:
        try:
            return self._endings.get(timeout=AGENTS[self.task.agent].wall_clock(self._settings))
        except queue.Empty:
            return OutOfTime()

    def _clean_up(self) -> None:
        """A clone that was cut short may still write where the sandbox was; the ending did not wait for it."""
        if self._preparation.ident is not None:
            self._preparation.join()
        self._sandbox.clean_up()

    def _prepare(self) -> None:
        """In a thread of its own: bring the repository, then hand out the job."""
        began = time.monotonic()
        try:
            if self._environment.image is not None:
                # It may have to be pulled, which must not keep the attempt from ending.
                self._sandbox.open(self._environment)
            progress = Progress(self._services, self.lease)
            self._workspace = self._workspaces.prepare(self.lease, self.task, progress)
            self._sandbox.hand_job(self._workspace)
            times = (self._workspace.fetch_ms, (time.monotonic() - began) * 1000)
            log.info("job handed over; git took %.1f ms of %.1f", *times, extra=self._about("job_handed_over"))
            self._workspaces.tell_unfollowed(self.lease, self.task, self._workspace)
        except AuthorityLostError:
            self.end(Lost())
        except Exception as error:  # noqa: BLE001  (it is recorded as the attempt's ending)
            self.end(Broken(error))

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

    def _workspace_at_end(self) -> Workspace | None:
        """None when the attempt ended before it had one."""
        if self._workspace is None and self._adopted is not None:
            self._workspace = self._workspaces.prepare(self.lease, self.task, Progress(self._services, self.lease))
        return self._workspace

    def _complete(self, final_message: str) -> None:
        try:
            workspace = patiently(self._workspace_at_end)
            assert workspace is not None  # a job was assigned, so there is one  # noqa: S101
            work = patiently(lambda: self._publisher.keep_patch(workspace, self._sandbox.scratch / "out", self._mask))
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
        failure = self._mask.failure(error or FarhandError("the loop ended without a reason").as_failure())
        self._persist(lambda tx: transitions.fail(tx, self.lease, failure))

    def _confirm_cancelled(self) -> None:
        """The time is taken first, as the patch is not part of it. The patch is written under the lease, so before the
        confirmation or never: one that takes long is not waited for, and finds the lease gone.
        """
        dead_ms = patiently(self._ms_since_cancel) if self._known_dead else None
        keeping = threading.Thread(target=self._keep_patch_unless_lost, name=f"patch {self.task.id}", daemon=True)
        keeping.start()
        keeping.join(_CANCELLED_PATCH_S)
        try:
            self._persist(lambda tx: transitions.confirm_cancelled(tx, self.lease, confirmed_dead_ms=dead_ms))
        finally:
            keeping.join()  # it writes where the attempt cleans up after this

    def _ms_since_cancel(self) -> int | None:
        since = select(extract("epoch", func.clock_timestamp() - Task.cancel_requested_at)).where(*self.lease.held)
        with self._services.database.read() as connection:
            seconds = connection.execute(since).scalar_one_or_none()
        return None if seconds is None else round(seconds * 1000)

    def _keep_patch_unless_lost(self) -> None:
        try:
            self._keep_patch()
        except AuthorityLostError:
            log.warning("the patch was not ready when the task ended", extra=self._about("patch_not_kept"))

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
        if isinstance(error, EngineUnavailableError):
            self._doubt_engine()

        def said(rest: float) -> Draft:
            message = f"{error.message}; trying again in {rest:.0f} s. {error.hint}"
            return "error", {"code": error.code, "message": message}

        self._persist(lambda tx: transitions.wait_out(tx, self.lease, said))

    def _count_death(self, error: Failure) -> None:
        self._persist(
            lambda tx: transitions.give_back_after_death(tx, self.lease, error=self._mask.failure(error)),
        )

    def _keep_patch(self) -> None:
        """The work so far can be read whatever the end was; if even that fails, the end is still recorded."""
        try:
            workspace = self._workspace_at_end()
            if workspace is not None:
                self._publisher.keep_patch(workspace, self._sandbox.scratch / "out", self._mask)
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
