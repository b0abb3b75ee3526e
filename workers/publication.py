"""The end of the road: a checked tree becomes a commit, a patch, and the task's branch (G7, G8).

What happens when the worker dies at each point:

    before the intent is recorded   the next attempt makes the same commit (it is a function of the row) and pushes
    before or during the push       the intent says what was meant; the next attempt finds either the old head or
                                    that sha on the remote, and builds on what it finds
    after the push, before record   the same: the remote has the sha already, which is success
    after the record                it says as well whether a pull request is wanted; any worker goes on with that
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from infra.services import Services
from infra.tasks import pull_requests, records
from infra.tasks.log import TaskRow
from infra.tasks.transitions import Lease
from infra.tasks.views import branch_name
from workers.git.publish import publish, remote_head
from workers.git.repo import TaskRepo
from workers.pull_requests.defused import defused, one_line
from workers.pull_requests.desk import Desk
from workers.workspace import Workspace, Workspaces

log = logging.getLogger(__name__)

_SUBJECT_CHARS = 72


@dataclass(frozen=True, slots=True)
class Work:
    """What a task changed: its tree in a repository of ours, and the diff against its base."""

    repo: TaskRepo
    tree: str
    when: datetime


class Publisher:
    """Takes the work of one attempt out of its recorded packs."""

    def __init__(self, services: Services, workspaces: Workspaces, lease: Lease, task: TaskRow) -> None:
        self._services = services
        self._workspaces = workspaces
        self._lease = lease
        self._task = task

    def keep_patch(self, workspace: Workspace, scratch: Path) -> Work | None:
        """Store the diff against the base, so that the work can be had whatever becomes of the push.

        None when nothing was recorded since the last push.
        """
        packs = self._workspaces.packs(self._task.id)
        if not packs:
            if self._task.head_sha is None:
                self._save(workspace.base, "", b"", (0, 0, 0))
            return None
        repo = TaskRepo.build(scratch, workspace.mirror, packs)
        tree = packs[-1].tree
        repo.check_tree(tree)
        stat = repo.stat(workspace.base, tree)
        diff = repo.diff(workspace.base, tree)
        self._save(workspace.base, tree, diff, (stat.files_changed, stat.insertions, stat.deletions))
        return Work(repo, tree, self._recorded_at())

    def push(self, workspace: Workspace, work: Work) -> None:
        """Commit the tree and push it to the task's branch. A repeat changes nothing.

        Raises:
            TaskFailedError: the push was refused; the patch is kept.
            AuthorityLostError
        """
        if not work.repo.stat(workspace.head, work.tree).files_changed:
            return
        sha = work.repo.commit(work.tree, workspace.head, _message(self._task.id, self._task.prompt), work.when)
        expected = self._remote_head(workspace)
        with self._services.tasks.transaction() as tx:
            records.record_push_intent(tx, self._lease, sha=sha, expected=expected)
        branch = branch_name(self._task.id)
        publish(work.repo, workspace.url, workspace.credentials, branch=branch, sha=sha, expected=expected)
        stat = work.repo.stat(workspace.base, work.tree)
        pushed = {
            "branch": branch,
            "sha": sha,
            "files_changed": stat.files_changed,
            "insertions": stat.insertions,
            "deletions": stat.deletions,
        }
        with self._services.tasks.transaction() as tx:
            records.record_push(tx, self._lease, sha=sha, event=("branch_pushed", pushed))
            hold = pull_requests.take_after_push(tx, self._lease)
        if hold is not None:
            Desk(self._services).serve(hold)

    def _remote_head(self, workspace: Workspace) -> str | None:
        """What the branch has to point to for our push to be right; None: it must not exist.

        An attempt that died may have pushed and not said so. A branch that was deleted is made again: many hosts
        do that after a merge, and the user asked for more. One that somebody moved is theirs, and the push fails.
        """
        meant = self._task.push_intent
        known: str | None = self._task.head_sha
        if meant is None and known is None:
            return None
        branch = branch_name(self._task.id)
        found = remote_head(workspace.url, workspace.credentials, branch, self._services.settings)
        if found is None or (meant is not None and found == meant["sha"]):
            return found
        return known

    def _save(self, base: str, tree: str, diff: bytes, counts: tuple[int, int, int]) -> None:
        with self._services.tasks.transaction() as tx:
            records.save_patch(tx, self._lease, base_sha=base, tree=tree, diff=diff, counts=counts)

    def _recorded_at(self) -> datetime:
        """The commit's date: when its tree was recorded, so that a retry makes the same commit."""
        with self._services.database.begin() as connection:
            when: datetime = records.trees(connection, self._task.id)[-1].created_at
        return when


def _message(task_id: UUID, prompt: str) -> str:
    """A subject out of the prompt's first line, and the task's id."""
    subject = defused(one_line(prompt, _SUBJECT_CHARS)) or "Farhand task"
    return f"{subject}\n\nFarhand-Task: {task_id}\n"
