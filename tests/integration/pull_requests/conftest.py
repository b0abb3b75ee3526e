"""A repository with a pushed branch, its GitHub on loopback, and a task that owns the branch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text, update

from infra.services import Services
from infra.settings import Settings
from infra.tables import Project, Task
from infra.tasks import pull_requests, records, transitions
from infra.tasks.log import TaskRow, read_events
from infra.tasks.transitions import Lease
from infra.tasks.views import branch_name
from tests.services import make_settings
from tests.standin.github import GitHubStandIn
from tests.standin.gitserver import GitServer
from tests.world import World
from workers.pull_requests.desk import Desk

TOKEN = "ghp_a-token-of-somebody"
REPO = "owner/sample"


@pytest.fixture
def git_host(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "git") as server:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "README.md").write_text("a sample\n")
        server.create(REPO, from_dir=tree)
        yield server


@pytest.fixture
def github(git_host: GitServer) -> Iterator[GitHubStandIn]:
    with GitHubStandIn(git_host, token=TOKEN) as server:
        yield server


@pytest.fixture
def settings(database_url: str, redis_url: str, run_dir: Path, git_host: GitServer, github: GitHubStandIn) -> Settings:
    hosts = tuple(server.base_url.removeprefix("http://") for server in (git_host, github))
    return make_settings(
        database_url=database_url,
        redis_url=redis_url,
        run_dir=run_dir,
        allowed_repo_hosts=hosts,
        github_hosts=(f"{hosts[0]}={github.base_url}/api/v3",),
        public_url="https://farhand.example",
    )


@dataclass
class Scene:
    """A user with a project on the repository, and short words for what happens to its tasks."""

    world: World
    git_host: GitServer
    github: GitHubStandIn

    @property
    def services(self) -> Services:
        return self.world.services

    @property
    def desk(self) -> Desk:
        return Desk(self.services)

    def project(self, **values: object) -> None:
        with self.services.database.begin() as connection:
            connection.execute(update(Project).where(Project.id == self.world.project_id).values(**values))

    def running(self, prompt: str = "make the failing test pass") -> Lease:
        """A task that a worker runs; its repository is the sample."""
        lease = self.world.claimed()
        self.change(lease.task_id, prompt=prompt, repo_url=self.git_host.url(REPO))
        with self.services.tasks.transaction() as tx:
            records.record_base(tx, lease, base_branch="main", base_sha=self.git_host.refs(REPO)["refs/heads/main"])
        return lease

    def push(self, lease: Lease) -> pull_requests.Hold | None:
        """A new commit on the branch, recorded as an attempt records its push."""
        sha = self.commit(lease.task_id)
        pushed = {
            "branch": branch_name(lease.task_id),
            "sha": sha,
            "files_changed": 1,
            "insertions": 1,
            "deletions": 0,
        }
        with self.services.tasks.transaction() as tx:
            records.record_push(tx, lease, sha=sha, event=("branch_pushed", pushed))
            return pull_requests.take_after_push(tx, lease)

    def commit(self, task_id: UUID) -> str:
        ref = f"refs/heads/{branch_name(task_id)}"
        parent = self.git_host.refs(REPO).get(ref) or self.git_host.refs(REPO)["refs/heads/main"]
        sha = self.git_host.git(REPO, "commit-tree", "-m", "more", "-p", parent, f"{parent}^{{tree}}").strip()
        self.git_host.git(REPO, "update-ref", ref, sha)
        return sha

    def completed(self, lease: Lease, message: str = "It works now.") -> UUID:
        self.change(lease.task_id, unread=0)
        with self.services.tasks.transaction() as tx:
            assert transitions.complete(tx, lease, message)
        return lease.task_id

    def task(self, prompt: str = "make the failing test pass", message: str = "It works now.") -> UUID:
        """A completed task with a pushed branch."""
        lease = self.running(prompt)
        assert self.push(lease) is None
        return self.completed(lease, message)

    def again(self, task_id: UUID) -> Lease:
        """A follow-up that a worker runs."""
        with self.services.tasks.transaction() as tx:
            transitions.add_message(tx, task_id, "and more", user_id=self.world.user_id)
        lease = self.world.claim(task_id, self.world.worker())
        assert lease is not None
        return lease

    def request(self, task_id: UUID) -> TaskRow:
        with self.services.tasks.transaction() as tx:
            hosts = self.services.settings.github_hosts
            return pull_requests.request(tx, task_id, user_id=self.world.user_id, github_hosts=hosts)

    def take(self) -> pull_requests.Hold | None:
        with self.services.tasks.transaction() as tx:
            return pull_requests.take(tx)

    def rested(self, task_id: UUID) -> None:
        """As if the time until it may be taken had passed."""
        self.change(task_id, pull_request_not_before=text("now() - interval '1 second'"), on_rest=True)

    def change(self, task_id: UUID, *, on_rest: bool = False, **values: object) -> None:
        resting = (Task.pull_request_not_before.is_not(None),) if on_rest else ()
        with self.services.database.begin() as connection:
            connection.execute(update(Task).where(Task.id == task_id, *resting).values(**values))

    def row(self, task_id: UUID) -> TaskRow:
        return self.world.row(task_id)

    def events(self, task_id: UUID, type_: str) -> list[dict[str, object]]:
        """Data of the events of a type."""
        with self.services.database.begin() as connection:
            events = read_events(connection, task_id, after=0, limit=1000).events
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert TOKEN not in str(events)
        return [event["data"] for event in events if event["type"] == type_]


@pytest.fixture
def scene(services: Services, git_host: GitServer, github: GitHubStandIn) -> Scene:
    made = Scene(World.make(services, repo_url=git_host.url(REPO)), git_host, github)
    made.project(git_token_encrypted=services.keys.encrypt(TOKEN))
    return made
