"""What a run is made of while it goes on: its deployment, its tasks, what was done to it, and who is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.referee.deployment import CREDENTIALS, Deployment
from tests.referee.faults import Fault
from tests.referee.plans import Plan
from tests.referee.taskruns import TERMINAL, TaskRun
from tests.referee.user import User
from tests.referee.waiting import NeverHappenedError, eventually

WORKERS_S = 120.0
CONVERGE_S = 240.0
"""After the last fault every task has ended by then, whatever rests and backs off."""


@dataclass
class Run:
    """`say` tells whoever watches what goes on."""

    deployment: Deployment
    user: User
    say: Callable[[str], None]
    tasks: list[TaskRun] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    not_over: list[str] = field(default_factory=list)
    """Why tasks had not ended when there was no more waiting for them."""

    def add(self, plan: Plan) -> TaskRun:
        """A task that is still to be sent."""
        task = TaskRun(plan, self.user, self.deployment.repo_url(plan.repo), self.deployment.stream_url)
        self.tasks.append(task)
        return task

    def open_repo(self, repo: str) -> None:
        """A repository with a project whose tasks get pull requests."""
        self.deployment.create_repo(repo)
        project = {"repo_url": self.deployment.repo_url(repo), "pull_request": "always"}
        self.user.post("/v1/projects", project | {"git_username": CREDENTIALS[0], "git_token": CREDENTIALS[1]})

    def running(self, host: str | None = None) -> list[str]:
        """Ids of the tasks that a worker has now, of one host or of all. Empty while Postgres is away."""
        query = "select t.id from tasks t join workers w on w.id = t.worker_id where t.status = 'running'"
        try:
            rows = self.deployment.rows(f"{query} and split_part(w.name, '@', 2) like %s", host or "%")
        except psycopg.Error:
            return []
        return [str(task_id) for (task_id,) in rows]

    def open_tasks(self) -> list[str]:
        """Of those that were sent, what is not over yet, with its state. Raises psycopg.Error."""
        rows = self.deployment.rows("select id, status, last_seq, pull_request_requested_at is not null from tasks")
        states = {str(task_id): (status, last_seq, waits) for task_id, status, last_seq, waits in rows}
        found = []
        for task in self.tasks:
            if not task.id:
                continue
            status, last_seq, waits = states[task.id]
            if not task.is_over(status, last_seq):
                seen = task.subscriber.last_seq if task.subscriber else 0
                found.append(f"{task.plan.name} ({task.id}) is {status}, event {seen} of {last_seq} seen")
            elif waits and status in TERMINAL:
                found.append(f"{task.plan.name} ({task.id}) waits for its pull request")
        return found

    def wait_for_workers(self, since: float, stop: threading.Event) -> None:
        """Until a worker of each host has registered after `since`. Raises NeverHappenedError."""
        fresh = "select count(distinct name) from workers where started_at > to_timestamp(%s) and swept_at is null"

        def all_there() -> bool:
            return int(self.deployment.rows(fresh, since)[0][0]) >= len(self.deployment.hosts)

        eventually(all_there, "every host has a worker again", WORKERS_S, stop=stop)

    def wait_until_over(self, stop: threading.Event) -> None:
        """Returns when every task is over, or it is no use to wait any longer: then `not_over` says for what."""
        pause, waited = 0.5, 0.0
        while (left := self._still_open()) and waited < CONVERGE_S and not stop.wait(pause):
            waited += pause
            if waited % 5 == 0:
                more = f" and {len(left) - 1} more" if len(left) > 1 else ""
                self.say(f"waiting {waited:.0f} s for {left[0]}{more}")
        self.not_over = left

    def submit_all(self, tasks: list[TaskRun]) -> None:
        """All at the same time, each on a thread of its own, as some may be held. Returns at once."""

        def submit(task: TaskRun) -> None:
            try:
                task.submit()
            except NeverHappenedError as error:
                task.trouble.append(str(error))

        for task in tasks:
            threading.Thread(target=submit, args=(task,), name=f"submit {task.plan.name}", daemon=True).start()

    def _still_open(self) -> list[str]:
        try:
            unsent = [f"{task.plan.name} was not accepted yet" for task in self.tasks if not task.id]
            return unsent + self.open_tasks()
        except psycopg.Error as error:
            return [f"Postgres does not answer: {error}"]
