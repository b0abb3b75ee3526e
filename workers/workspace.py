"""The workspace of one attempt: the project's mirror on this host, and the job that the sandbox gets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from agent_runtime.protocol import VERSION, Job, Limits
from infra.agents import AGENTS, AgentDefinition
from infra.egress import Egress, in_words
from infra.services import Services
from infra.settings import Settings
from infra.tables import Project
from infra.tasks import records
from infra.tasks.log import TaskRow
from infra.tasks.transitions import Lease
from infra.tasks.views import branch_name
from workers.git.mirror import Mirror, MirrorStore
from workers.git.remote import Credentials
from workers.git.repo import TaskRepo, TreePack
from workers.git.unfollowed import unfollowed

_OUTPUT_BYTES = 48 * 1024
_PACK_BYTES = 64 * 2**20
_FILE_BYTES = 16 * 2**20

_GIT_USERNAME = "x-access-token"
"""What git hosts take as the user of a token, unless the project names one."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A task's repository on this host. `head` is the commit of its branch so far, `base` what that started from."""

    mirror: Mirror
    url: str
    credentials: Credentials | None
    base: str
    head: str
    fetch_ms: float
    """What it took to bring the mirror up to date."""


class Workspaces:
    """Prepares workspaces below the run directory."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings
        self._mirrors = MirrorStore(self._settings.run_dir, self._settings)

    def prepare(self, lease: Lease, task: TaskRow, progress: Progress) -> Workspace:
        """Bring the mirror up to date and fix what the task starts from.

        Raises:
            TaskFailedError: the repository can't be had; the code and the hint say why.
            AuthorityLostError
        """
        url, credentials = task.repo_url, self._credentials(task.project_id)
        known = tuple(sha for sha in (task.base_sha, task.head_sha) if sha)
        began = time.monotonic()
        mirror = self._mirrors.refresh(task.project_id, url, credentials, progress=progress.report, commits=known)
        fetch_ms = (time.monotonic() - began) * 1000
        base = task.base_sha
        if base is None:
            branch, base = mirror.resolve(task.base_branch)
            with self._services.tasks.single_statement() as tx:
                records.record_base(tx, lease, base_branch=branch, base_sha=base)
        return Workspace(mirror, url, credentials, base, task.head_sha or base, fetch_ms)

    def fill(self, workspace: Workspace, task_id: UUID, target: Path, scratch: Path) -> str | None:
        """Put the objects of the repo, and of the work so far, into `target/objects`.

        Returns the tree to restore: None when nothing was recorded since `head`.
        """
        workspace.mirror.share_objects(target)
        packs = self.packs(task_id)
        if not packs:
            return None
        repo = TaskRepo.build(scratch, workspace.mirror, packs)
        repo.share_packs(target)
        return packs[-1].tree

    def tell_unfollowed(self, lease: Lease, task: TaskRow, workspace: Workspace) -> None:
        """Tell the user, in the first attempt, what of the repository is not fetched. Raises AuthorityLostError."""
        if task.base_sha is not None:
            return
        notices = unfollowed(workspace.mirror, workspace.base)
        if notices:
            with self._services.tasks.transaction() as tx:
                said = [("error", {"code": code, "message": message}) for code, message in notices]
                records.append_event(tx, lease, *said)

    def packs(self, task_id: UUID) -> list[TreePack]:
        """The recorded work trees since the last push, oldest first."""
        with self._services.database.read() as connection:
            rows = records.trees(connection, task_id)
        return [TreePack(tree=row.tree, parent=row.parent, data=bytes(row.pack)) for row in rows]

    def last_tree(self, task_id: UUID) -> str | None:
        """The newest recorded work tree since the last push."""
        with self._services.database.read() as connection:
            return records.last_tree(connection, task_id)

    def job(self, lease: Lease, task: TaskRow, *, base: str, head: str, tree: str | None, egress: Egress) -> Job:
        """What `GET /job` answers."""
        agent = AGENTS[task.agent]
        with self._services.database.read() as connection:
            steps = records.recorded_steps(connection, task.id)
            calls = records.recorded_calls(connection, task.id, steps[-1]["step"]) if steps else []
            inbox = records.inbox(connection, task.id)
        return {
            "protocol": VERSION,
            "task_id": str(task.id),
            "attempt": lease.attempt,
            "workspace": {
                "base": base,
                "head": head,
                "tree": tree,
                "branch": branch_name(task.id),
            },
            "steps": steps,
            "calls": calls,
            "inbox": inbox,
            "agent": agent.as_job(in_words(egress)),
            "limits": _limits(agent, self._settings),
            "egress": egress != "none",
            "cancel": False,
            "unread": len(inbox),
        }

    def _credentials(self, project_id: UUID) -> Credentials | None:
        with self._services.database.read() as connection:
            row = connection.execute(
                select(Project.git_username, Project.git_token_encrypted).where(Project.id == project_id)
            ).one()
        if row.git_token_encrypted is None:
            return None
        return Credentials(row.git_username or _GIT_USERNAME, self._services.keys.decrypt(row.git_token_encrypted))


class Progress:
    """Tells the user how far the preparation is: one `build_progress` event for each tenth of a stage."""

    def __init__(self, services: Services, lease: Lease) -> None:
        self._services = services
        self._lease = lease
        self._last = ("", -1)

    def report(self, stage: str, percent: int) -> None:
        tenth = (stage, percent // 10)
        if tenth == self._last:
            return
        self._last = tenth
        with self._services.tasks.transaction() as tx:
            records.append_event(tx, self._lease, ("build_progress", {"stage": stage, "percent": percent}))


def _limits(agent: AgentDefinition, settings: Settings) -> Limits:
    return {
        "max_steps": agent.max_steps or settings.max_steps,
        "wall_clock_s": settings.task_wall_clock,
        "command_timeout_s": settings.command_timeout,
        "max_command_timeout_s": settings.max_command_timeout,
        "output_bytes": _OUTPUT_BYTES,
        "pack_bytes": _PACK_BYTES,
        "file_bytes": _FILE_BYTES,
    }
