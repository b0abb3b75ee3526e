"""The sandbox of one attempt: a warm one if one waits, else a cold one; and a second one if a warm one was dead.

    open       take or start one, and name it in the attempt's row
    hand_job   put the repository's objects in, and answer its `GET /job`. At the same time as `open`, by another thread
    adopt      in place of these two: go on with the one that the attempt's row names since it was taken over
    close      kill it, cut its link, remove it
    leave      in place of that: cut its link and let it run on, for who adopts it. Whichever of the two is first, does

A warm sandbox that dies before it has said a word about its job has cost nothing but time, and is replaced by a cold
one that gets the same job. Every other death is told to whoever runs the attempt.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent_runtime.protocol import Job
from infra.db import patiently
from infra.egress import Egress
from infra.tasks import records
from infra.tasks.log import TaskRow
from infra.tasks.transitions import Lease
from workers.linked_sandbox import LinkedSandbox
from workers.relay.link import Link
from workers.relay.routes import choose_route
from workers.sandbox import directory
from workers.sandbox.base import Exit
from workers.workspace import Workspace

if TYPE_CHECKING:
    from workers.attempt import Equipment

log = logging.getLogger(__name__)


class AttemptSandbox:
    """`on_death` and `on_trouble` are told at most once each, from threads of their own."""

    def __init__(
        self,
        equipment: Equipment,
        lease: Lease,
        task: TaskRow,
        link: Link,
        *,
        on_death: Callable[[Exit], None],
        on_trouble: Callable[[Exception], None],
    ) -> None:
        self._equipment = equipment
        self._settings = equipment.services.settings
        self._lease = lease
        self._task = task
        self._link = link
        self._on_death = on_death
        self._on_trouble = on_trouble
        self._current: LinkedSandbox | None = None
        self._used: list[LinkedSandbox] = []
        self._workspace: Workspace | None = None
        self._opened = threading.Event()
        self._closed = False
        self._served = False
        self.left = False
        """Whether it was left to whoever adopts it: then nothing of it may be touched any more."""
        self._state = threading.Lock()
        """Guards `_current`, `_closed`, `_served` and `left`; held for a moment only."""
        self._handing = threading.Lock()
        """Held while a job is handed over, or a dead sandbox replaced."""

    @property
    def scratch(self) -> Path:
        """What the worker itself writes for this attempt; named after the sandbox, so the sweep knows whose it is."""
        return self._settings.run_dir / "t" / self._used[-1].id

    def open(self) -> None:
        """Raises AuthorityLostError, UnavailableError, and as `Driver.start` does."""
        try:
            warm = self._equipment.pool.take()
            sandbox = self._use(warm or self._cold(), is_warm=warm is not None)
        finally:
            self._opened.set()
        sandbox.tell_end(self._when_cold_ends if warm is None else self._when_warm_ends)
        if warm is None:
            sandbox.start()

    def hand_job(self, workspace: Workspace) -> None:
        """Raises what is wrong with the repository's objects or the task's model."""
        self._opened.wait()
        with self._handing:
            self._workspace = workspace
            if self._current is not None and not self._closed:
                self._hand(self._current, workspace)

    def adopt(self, sandbox_id: str) -> None:
        """Raises what is wrong with the task's model. Waits for Postgres however long it is away, as the loop does."""
        equipment = self._equipment
        sandbox = LinkedSandbox(equipment.driver, self._settings.run_dir, equipment.bundle, sandbox_id)
        self._used.append(sandbox)
        with self._state:
            self._current = sandbox
        sandbox.find()
        sandbox.tell_end(self._on_death)
        task, workspaces = self._task, equipment.workspaces
        egress = patiently(lambda: self._open_egress(sandbox))
        tree = patiently(lambda: workspaces.last_tree(task.id))
        base = task.base_sha  # of a task whose sandbox was served there is one
        head = task.head_sha or base
        job = patiently(lambda: workspaces.job(self._lease, task, base=base, head=head, tree=tree, egress=egress))
        self._link.heard = True
        self._serve(sandbox, job)
        sandbox.listen()

    def leave(self) -> bool:
        """Whether a loop is at work in it, which goes on without us."""
        with self._state:
            if self._closed or not self._served or self._current is None:
                return False
            self._closed = self.left = True
            current = self._current
        current.let_go()
        return True

    def close(self) -> bool:
        """Returns whether it is known to be dead: from then on it can say nothing more."""
        with self._state:
            if self.left:
                return False
            self._closed = True
            current = self._current
        if current is None:
            self._link.close()
            return True
        known_dead = True
        try:
            current.kill()
        except Exception:
            known_dead = False
            log.exception("can't kill a sandbox", extra=self._about("sandbox_not_killed"))
        self._link.close()
        try:
            current.remove()
        except Exception:
            # The sweep removes what is left; the attempt's result must not depend on it.
            log.exception("can't remove a sandbox", extra=self._about("sandbox_not_removed"))
        return known_dead

    def clean_up(self) -> None:
        """Remove what was written while the sandbox was closed. Nobody hands a job over any more."""
        if self.left:
            return
        with self._handing:
            for sandbox in self._used:
                shutil.rmtree(self._settings.run_dir / "t" / sandbox.id, ignore_errors=True)
                shutil.rmtree(sandbox.directory, ignore_errors=True)

    # ---- one of them -------------------------------------------------------------------------------------------

    def _cold(self) -> LinkedSandbox:
        equipment = self._equipment
        sandbox_id = directory.new_sandbox_id()
        return LinkedSandbox(equipment.driver, self._settings.run_dir, equipment.bundle, sandbox_id)

    def _use(self, sandbox: LinkedSandbox, *, is_warm: bool) -> LinkedSandbox:
        """Ours from now on. A cold one is named before it exists: whoever cleans up knows whose it is."""
        self._used.append(sandbox)
        with self._state:
            self._current = sandbox
        with self._equipment.services.tasks.single_statement() as tx:
            records.record_sandbox(tx, self._lease, sandbox.id)
        sandbox.give_up_hold()
        if not is_warm:
            sandbox.open()
        return sandbox

    def _hand(self, sandbox: LinkedSandbox, workspace: Workspace) -> None:
        workspaces, task = self._equipment.workspaces, self._task
        tree = workspaces.fill(workspace, task.id, sandbox.objects, self.scratch / "in")
        egress = self._open_egress(sandbox)
        job = workspaces.job(self._lease, task, base=workspace.base, head=workspace.head, tree=tree, egress=egress)
        self._serve(sandbox, job)

    def _open_egress(self, sandbox: LinkedSandbox) -> Egress:
        return sandbox.open_egress(
            self._equipment.services,
            self._lease,
            self._task.project_id,
            suspended=self._equipment.suspended,
            on_lost=self._link.lost,
        )

    def _serve(self, sandbox: LinkedSandbox, job: Job) -> None:
        self._link.assign(job, choose_route(self._task.model, self._settings, self._equipment.upstream))
        with self._state:
            self._served = True
        sandbox.serve(self._link)

    def _when_cold_ends(self, ended: Exit) -> None:
        self._on_death(ended)

    def _when_warm_ends(self, ended: Exit) -> None:
        if self._link.heard:
            self._on_death(ended)
            return
        try:
            with self._handing:
                self._replace(ended)
        except Exception as error:  # noqa: BLE001  (it is recorded as the attempt's ending)
            self._on_trouble(error)

    def _replace(self, ended: Exit) -> None:
        """By a cold one, with the same job if that was handed over already. Not when the attempt is over."""
        dead = self._current
        if self._closed or dead is None:
            return
        log.warning("a warm sandbox was dead (%s): starting another", ended.code, extra=self._about("warm_replaced"))
        dead.discard()
        fresh = self._use(self._cold(), is_warm=False)
        fresh.tell_end(self._when_cold_ends)
        fresh.start()
        if self._closed:
            fresh.discard()
        elif self._workspace is not None:
            self._hand(fresh, self._workspace)

    def _about(self, action: str) -> dict[str, object]:
        return {"action": action, "task_id": self._task.id, "attempt": self._lease.attempt}
