"""The pull request of a task: who wants it, who sees to it now, and what became of it (G8).

    nothing wanted ──request──► wanted ──take──► held ──finish──► nothing wanted, and an event says what became of it
                                  ▲               │
                                  └──postpone─────┘  rests until `pull_request_not_before`

nothing wanted  `requested_at` is null. `pull_request` says whether there is one.
wanted          `requested_at` is set. Any worker may take it, unless it rests.
held            besides, `token` is set: one worker talks to the git host. Until `not_before`, which it pushes forward
                before each of its requests; afterwards anybody may take it from that worker.

Who may write: request: the user, through the API; or an attempt under its lease, in the transaction that records its
push. take: a worker, from `wanted`, or from `held` once that ran out. Everything else: the holder of the token, and,
when an attempt does it as a part of its end, of the lease too.

What happens when somebody dies:

    the API, before its commit             nothing was asked for, and the client knows
    the API after it                       the row is there: workers look for such rows every few seconds
    an attempt after the push's commit     the row is there as well: whoever looks next goes on
    a worker that holds it, anywhere       the hold runs out, another one takes it
    … between the host's 201 and `finish`  the same; the next one finds the pull request by its head branch
    … after `finish`                       it is done
    a worker that is stopped, and wakes    it renews its hold before each request, and finds it gone

A worker that is stopped between that renewal and its request may still ask for a second pull request of a branch that
has one: the host refuses that, as only one can be open for a head and a base.

A request that comes while one is held is not lost: `finish` takes away only the request that was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, case, func, null, or_, select

from infra.errors import AuthorityLostError, ConflictError, NotFoundError
from infra.github import github_repo
from infra.tables import Project, Task
from infra.tasks.log import Draft, TaskRow, Transaction
from infra.tasks.transitions import Lease, in_seconds

HOLD_S = 60.0
"""How long a worker may go on after it last renewed its hold: longer than any one request."""
MAX_TRIES = 6
"""Of one request, the workers that died on it included."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A worker's authority over the pull request of a task; with a `lease`, as a part of the attempt that has it."""

    task_id: UUID
    token: UUID
    requested_at: datetime
    tries: int
    lease: Lease | None = None

    @property
    def guard(self) -> tuple[ColumnElement[bool], ...]:
        leased = () if self.lease is None else self.lease.held
        return (Task.id == self.task_id, Task.pull_request_token == self.token, *leased)


def request(tx: Transaction, task_id: UUID, *, user_id: UUID, github_hosts: tuple[str, ...]) -> TaskRow:
    """A user wants the pull request of a task to be opened, or brought up to date.

    Raises (and the transaction must be rolled back):
        NotFoundError
        ConflictError: `no_branch`, `pull_requests_off`, `git_token_missing`, `pull_request_host_unsupported`.
    """
    mine = (Task.id == task_id, Task.user_id == user_id)
    row = tx.advance((*mine, Task.head_sha.is_not(None)), values=_wanted())
    if row is None:
        if tx.connection.execute(select(Task.id).where(*mine)).one_or_none() is None:
            raise NotFoundError("there is no such task")
        raise ConflictError(
            "the task has pushed no branch", hint="Ask again once it has completed with changes.", code="no_branch"
        )
    _check_project(tx, row, github_hosts)
    return row


def take_after_push(tx: Transaction, lease: Lease) -> Hold | None:
    """In the transaction that records a push: want the pull request if the project does, and hold it.

    None when the project does not, or somebody else holds it (who then sees that it is wanted anew).
    """
    mode = select(Project.pull_request).where(Project.id == Task.project_id).scalar_subquery()
    has_one = Task.pull_request.is_not(null())
    if tx.advance((*lease.held, or_(mode == "always", and_(mode == "on_request", has_one))), values=_wanted()) is None:
        return None
    return _take(tx, lease.held, lease)


def take(tx: Transaction) -> Hold | None:
    """The next one that is wanted and does not rest; those that were tried less come first. None: there is none."""
    due = (
        select(Task.id)
        .where(_is_free())
        .order_by(Task.pull_request_tries, Task.pull_request_requested_at)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    task_id = tx.connection.execute(due).scalar_one_or_none()
    return None if task_id is None else _take(tx, (Task.id == task_id,), None)


def renew(tx: Transaction, hold: Hold) -> None:
    """Before each request to the host. Raises AuthorityLostError: somebody else took it, or the lease is gone."""
    _write(tx, hold, values={"pull_request_not_before": in_seconds(HOLD_S)})


def finish(tx: Transaction, hold: Hold, found: dict[str, Any] | None, *errors: Draft) -> None:
    """It is done, or was given up: `found` is `{url, number}` if there is one. Its event comes once for each.

    A repeat raises AuthorityLostError, as does everything that comes after it.
    """
    if found is not None:
        is_news = Task.pull_request.is_distinct_from(found)
        tx.advance((*hold.guard, is_news), ("pull_request", found), values={"pull_request": found})
    was_taken = Task.pull_request_requested_at == hold.requested_at
    _write(
        tx,
        hold,
        *errors,
        values={
            "pull_request_requested_at": case((was_taken, None), else_=Task.pull_request_requested_at),
            "pull_request_token": None,
            "pull_request_not_before": None,
            "pull_request_tries": 0,
        },
    )


def postpone(tx: Transaction, hold: Hold, seconds: float, error: Draft) -> None:
    """Not now: it rests for `seconds`, also when it is requested anew. Raises AuthorityLostError."""
    _write(tx, hold, error, values={"pull_request_token": None, "pull_request_not_before": in_seconds(seconds)})


def _wanted() -> dict[str, Any]:
    """By the clock, not by the transaction's: each request differs from the one that was taken."""
    return {"pull_request_requested_at": func.clock_timestamp(), "pull_request_tries": 0}


def _is_free() -> ColumnElement[bool]:
    rested = or_(Task.pull_request_not_before.is_(None), Task.pull_request_not_before <= func.now())
    return and_(Task.pull_request_requested_at.is_not(None), rested)


def _take(tx: Transaction, where: tuple[ColumnElement[bool], ...], lease: Lease | None) -> Hold | None:
    token = uuid4()
    row = tx.advance(
        (*where, _is_free()),
        values={
            "pull_request_token": token,
            "pull_request_not_before": in_seconds(HOLD_S),
            "pull_request_tries": Task.pull_request_tries + 1,
        },
    )
    if row is None:
        return None
    return Hold(row.id, token, row.pull_request_requested_at, row.pull_request_tries, lease)


def _write(tx: Transaction, hold: Hold, *drafts: Draft, values: dict[str, Any]) -> None:
    if tx.advance(hold.guard, *drafts, values=values) is None:
        raise AuthorityLostError(f"somebody else sees to the pull request of task {hold.task_id}")


def _check_project(tx: Transaction, task: TaskRow, github_hosts: tuple[str, ...]) -> None:
    project = tx.connection.execute(
        select(Project.id, Project.pull_request, Project.git_token_encrypted).where(Project.id == task.project_id)
    ).one()
    if project.pull_request == "never":
        raise ConflictError(
            "the task's project is set to `pull_request: never`",
            hint=f"Set it to on_request or always: PATCH /v1/projects/{project.id}.",
            code="pull_requests_off",
        )
    if github_repo(task.repo_url, github_hosts) is None:
        raise ConflictError(
            f"{task.repo_url} is not on a GitHub that this deployment knows",
            hint="Open it by hand from the task's branch; for GitHub Enterprise ask the operator to list the host in "
            "FARHAND_GITHUB_HOSTS.",
            code="pull_request_host_unsupported",
        )
    if project.git_token_encrypted is None:
        raise ConflictError(
            "the task's project has no git token to open a pull request with",
            hint=f"Give it one that may write pull requests: PATCH /v1/projects/{project.id}.",
            code="git_token_missing",
        )
