"""Adoption: who finds that a worker process of this host is dead goes on with its tasks, in their running sandboxes.

The lock of that process (`workers.process_lock`) says that it is dead, so nobody waits for a ttl. Two find it: the
process that is started in its place, as it takes its own lock; and its siblings, which look every WATCH_S at the locks
that nobody holds. `infra.tasks.takeover` has the states of a sandbox, who may move it, and who dies when.

What is adopted: a task whose sandbox runs, whose loop may have its job (`directory.mark_served`), and whose worker had
our protocol, our runtime and our kind of sandbox; as many as there are seats for. One that still builds its project's
setup is not: what the dead worker had got of that is lost. The rest resumes from its records: the successor gives it
back to pending at once, a sibling leaves it to the successor, or else to the sweep.

The loop notices a pause. Its requests break or are refused until the adopter listens on the same link; then it asks
again. A model call that was in the air is counted as lost and made once more, as the next try of its step. A tool call
runs on all the while, and its result comes over the new link. Connections of its commands to the outside are cut.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from uuid import UUID

from agent_runtime.protocol import VERSION
from infra.errors import FarhandError, UnavailableError
from infra.services import Services
from infra.tasks import takeover
from infra.tasks.takeover import Adoption, Estate, HeldTask
from workers.process_lock import ProcessLock, locks_of_the_dead
from workers.runs import Runs
from workers.sandbox import directory
from workers.sandbox.base import Driver, EngineUnavailableError

log = logging.getLogger(__name__)

WATCH_S = 1.0


class Heir:
    """Takes over for this worker. `adopt` is called for each task, which has a seat, and returns at once."""

    def __init__(
        self, services: Services, driver: Driver, runs: Runs, *, runtime: str, adopt: Callable[[Adoption], None]
    ) -> None:
        self._services = services
        self._driver = driver
        self._runs = runs
        self._runtime = runtime
        self._adopt = adopt
        self._run_dir = services.settings.run_dir.absolute()

    def succeed(self, lock: ProcessLock, heir: UUID) -> None:
        """As the successor of whoever held our lock before. Raises UnavailableError: then the lock still says who."""
        lock.name(heir, *lock.predecessors)
        for dead in lock.predecessors:
            self._inherit(dead, heir, all_of_it=True)
        lock.name(heir)

    def watch(self, stopping: threading.Event, heir: Callable[[], UUID | None]) -> None:
        """For siblings, until `stopping`. `heir` is our id; None while we can't tell whether we live."""
        while not stopping.wait(WATCH_S):
            try:
                self.look(heir)
            except (FarhandError, OSError) as error:
                log.warning("can't look after siblings: %s", error, extra={"action": "siblings_unseen"})
            except Exception:
                log.exception("looking after siblings broke", extra={"action": "siblings_unseen"})

    def look(self, heir: Callable[[], UUID | None]) -> None:
        """Take over what has no holder. A lock whose workers have nothing left is not looked at again."""
        for lock in locks_of_the_dead(self._run_dir):
            own = heir()
            if own is None:
                return
            remaining = [dead for dead in lock.predecessors if not self._inherit(dead, own, all_of_it=False)]
            lock.name(*remaining)

    def _inherit(self, dead: UUID, heir: UUID, *, all_of_it: bool) -> bool:
        """Whether nothing is left of it for another one."""
        with self._services.database.read() as connection:
            estate = takeover.estate_of(connection, dead)
        if estate is None:
            return True
        chosen = self._with_seats(self._adoptable(estate))
        adopted: list[Adoption] = []
        try:
            if not (chosen or all_of_it or not estate.tasks):
                return False
            with self._services.tasks.transaction() as tx:
                adopted, given_back = takeover.take_over(tx, dead, heir=heir, sandboxes=chosen, all_of_it=all_of_it)
        except UnavailableError:
            adopted = []  # did it happen? If so, they are tasks of ours that nobody runs, and are given back
            raise
        finally:
            for _ in range(len(chosen) - len(adopted)):
                self._runs.give_seat()
        for adoption in adopted:
            log.warning("adopted a task", extra={"action": "task_adopted", "task_id": adoption.task.id})
            self._adopt(adoption)
        for task in given_back:
            log.warning("took a task from a dead worker", extra={"action": "task_inherited", "task_id": task.id})
        return len(adopted) == len(estate.tasks) or all_of_it

    def _adoptable(self, estate: Estate) -> list[HeldTask]:
        if (estate.protocol_version, estate.runtime) != (VERSION, self._runtime):
            return []
        served = [task for task in estate.tasks if task.sandbox_kind == self._driver.kind and self._was_served(task)]
        running = self._running() if served else set()
        return [task for task in served if task.sandbox_id in running]

    def _running(self) -> set[str]:
        """None while the engine is away: the tasks of a dead worker need not wait for it, others may have one."""
        try:
            return self._driver.running()
        except EngineUnavailableError as error:
            log.warning("adopting nothing: %s", error, extra={"action": "nothing_adopted"})
            return set()

    def _was_served(self, task: HeldTask) -> bool:
        sandbox_id = task.sandbox_id
        return sandbox_id is not None and directory.was_served(directory.path_of(self._run_dir, sandbox_id))

    def _with_seats(self, tasks: list[HeldTask]) -> dict[UUID, str]:
        """As many of them as we find seats for, with their sandboxes."""
        return {task.task_id: task.sandbox_id for task in tasks if task.sandbox_id and self._runs.take_seat()}
