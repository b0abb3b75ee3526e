"""Who sees to pull requests that are wanted: an attempt at its end, and two threads of each worker for the rest.

They are no jobs of Celery: its slots are taken by attempts for hours, and a pull request should not wait for one.
`infra.tasks.pull_requests` says what happens when somebody dies meanwhile.
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy import select

from infra.db import patiently
from infra.errors import AuthorityLostError, FarhandError, UnavailableError
from infra.github import github_repo
from infra.services import Services
from infra.tables import Project, Task
from infra.tasks import pull_requests
from infra.tasks.log import Draft, TaskRow
from infra.tasks.pull_requests import MAX_TRIES, Hold
from infra.tasks.views import branch_name
from workers.pull_requests import description
from workers.pull_requests.base import HostBusyError, HostRefusedError, NewPullRequest, PullRequest, PullRequestHost
from workers.pull_requests.facts import collect
from workers.pull_requests.github import GitHub
from workers.pull_requests.github_failures import LIMIT_REST_S, MAX_WAIT_S

log = logging.getLogger(__name__)

LOOK_S = 2.0
FIRST_REST_S = 5.0
"""Doubled with each try."""


class Desk:
    """Brings about what `infra.tasks.pull_requests` hands out."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping`, on a thread of its own; any number of them side by side."""
        while not stopping.wait(LOOK_S):
            try:
                while not stopping.is_set() and self.serve_next():
                    pass
            except UnavailableError as error:
                log.warning("can't look for pull requests: %s", error, extra={"action": "pull_requests_not_read"})
            except Exception:
                log.exception("looking for pull requests broke", extra={"action": "pull_requests_not_read"})

    def serve_next(self) -> bool:
        """See to one that is wanted. False when there is none. Raises UnavailableError."""
        with self._services.tasks.transaction() as tx:
            hold = pull_requests.take(tx)
        if hold is None:
            return False
        self.serve(hold)
        return True

    def serve(self, hold: Hold) -> None:
        """Open or update what `hold` is for, and record how that ended. Raises nothing.

        When the hold is lost meanwhile nothing more is written: whoever has it now goes on.
        """
        try:
            patiently(lambda: self._serve(hold))
        except AuthorityLostError as error:
            log.warning("left a pull request to others: %s", error, extra=_about(hold, "pull_request_left"))

    def _serve(self, hold: Hold) -> None:
        try:
            found = self._bring_about(hold)
        except HostBusyError as error:
            self._put_off(hold, error)
        except (AuthorityLostError, UnavailableError):
            raise
        except FarhandError as error:
            self._give_up(hold, error)
        except Exception as error:
            log.exception("a pull request broke", extra=_about(hold, "pull_request_broke"))
            self._put_off(hold, HostBusyError(f"the worker failed: {type(error).__name__}", code="pull_request_failed"))
        else:
            self._finish(hold, found)

    def _bring_about(self, hold: Hold) -> tuple[PullRequest, TaskRow]:
        """Look first, always: the one who was here before may have died after the host's answer."""
        task, host = self._read(hold)
        if hold.tries > MAX_TRIES:
            raise _exhausted(HostBusyError(f"{MAX_TRIES} workers in a row did not come back from it"))
        found = host.find(branch_name(task.id))
        if found is not None and found.state != "open":
            return found, task
        with self._services.database.begin() as connection:
            ours = description.body(collect(connection, task, self._services.settings))
        if found is None:
            new = NewPullRequest(branch_name(task.id), task.base_branch, description.title(task.prompt), ours)
            return host.open(new), task
        wanted = description.renewed(found.body, ours)
        if wanted != found.body.replace("\r\n", "\n"):
            found = host.update(found.number, body=wanted)
        return found, task

    def _read(self, hold: Hold) -> tuple[TaskRow, PullRequestHost]:
        """The task as it is now, and its host. Raises HostRefusedError."""
        with self._services.database.begin() as connection:
            task = connection.execute(select(*Task.__table__.c).where(*hold.guard)).one_or_none()
            if task is None:
                raise AuthorityLostError("somebody else took it")
            project = connection.execute(
                select(Project.pull_request, Project.git_token_encrypted).where(Project.id == task.project_id)
            ).one()
        settings = self._services.settings
        repo = github_repo(task.repo_url, settings.github_hosts)
        if repo is None:
            raise HostRefusedError(
                f"{task.repo_url} is not on a GitHub that this worker knows",
                hint="Open it by hand; for GitHub Enterprise the operator lists the host in FARHAND_GITHUB_HOSTS.",
                code="pull_request_host_unsupported",
            )
        if project.pull_request == "never":
            raise HostRefusedError("the task's project takes no pull requests now", code="pull_requests_off")
        if project.git_token_encrypted is None:
            raise HostRefusedError(
                "the task's project has no git token to open a pull request with",
                hint="Give it one that may write pull requests.",
                code="git_token_missing",
            )
        token = self._services.keys.decrypt(project.git_token_encrypted)
        return task, GitHub(repo, token, settings, renew=lambda: self._renew(hold))

    def _renew(self, hold: Hold) -> None:
        with self._services.tasks.transaction() as tx:
            pull_requests.renew(tx, hold)

    def _finish(self, hold: Hold, seen: tuple[PullRequest, TaskRow]) -> None:
        found, task = seen
        errors = [_error(error)] if (error := _ended(found, task)) else []
        with self._services.tasks.transaction() as tx:
            pull_requests.finish(tx, hold, {"url": found.url, "number": found.number}, *errors)
        log.info("pull request %d is up to date", found.number, extra=_about(hold, "pull_request_done"))

    def _give_up(self, hold: Hold, error: FarhandError) -> None:
        log.warning("no pull request: %s", error, extra=_about(hold, "pull_request_given_up"))
        with self._services.tasks.transaction() as tx:
            pull_requests.finish(tx, hold, None, _error(error))

    def _put_off(self, hold: Hold, error: HostBusyError) -> None:
        if hold.tries >= MAX_TRIES:
            self._give_up(hold, _exhausted(error))
            return
        wait_s = _rest(error, hold.tries)
        log.warning("a pull request has to wait: %s", error, extra=_about(hold, "pull_request_waits"))
        with self._services.tasks.transaction() as tx:
            pull_requests.postpone(tx, hold, wait_s, _error(error, f"; trying again in {wait_s:.0f} s"))


def _ended(found: PullRequest, task: TaskRow) -> FarhandError | None:
    """One task, one pull request: people have ended it, and it is theirs to open it again."""
    if found.state == "open" or (found.state == "merged" and found.head_sha == task.head_sha):
        return None
    if found.state == "merged":
        return HostRefusedError(
            f"pull request {found.number} was merged before the branch had its newest commit",
            hint="Open another one by hand, or start a new task for what is left.",
            code="pull_request_merged",
        )
    return HostRefusedError(
        f"pull request {found.number} was closed",
        hint="Open it again at its host, then ask for it once more.",
        code="pull_request_closed",
    )


def _exhausted(error: HostBusyError) -> HostRefusedError:
    return HostRefusedError(
        f"gave up after {MAX_TRIES} tries: {error.message}",
        hint="The branch is pushed. Ask for the pull request again once the host answers.",
        code=error.code,
    )


def _rest(error: HostBusyError, tries: int) -> float:
    """Seconds. What the host asks for; else its limits rest longer than its failures, and both longer each time."""
    if error.wait_s is not None:
        return max(error.wait_s, 1.0)
    first = LIMIT_REST_S if error.code == "pull_request_rate_limited" else FIRST_REST_S
    return min(first * 2.0 ** (tries - 1), MAX_WAIT_S)


def _error(error: FarhandError, what_next: str = "") -> Draft:
    """An `error` event has no field for the hint, so its message ends with it."""
    hint = "" if what_next else f". {error.hint}"
    return ("error", {"code": error.code, "message": f"{error.message}{what_next}{hint}"})


def _about(hold: Hold, action: str) -> dict[str, object]:
    return {"action": action, "task_id": hold.task_id}
