"""A user, a project and workers on a database: short words for what tests of tasks do again and again."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import insert, select, text, update

from infra.ids import new_id
from infra.services import Services
from infra.tables import Project, Task, User, Worker
from infra.tasks import ownership, transitions
from infra.tasks.log import TaskRow, read_events
from infra.tasks.transitions import Lease, NewTask


@dataclass
class World:
    """One deployment's database with a user and a project. `World.make` sets it up."""

    services: Services
    user_id: UUID
    project_id: UUID
    repo_url: str = "https://git.example.invalid/r"

    @classmethod
    def make(cls, services: Services, *, repo_url: str = repo_url) -> World:
        bare = cls(services, UUID(int=0), UUID(int=0))
        user_id = bare.another_user()
        with services.database.begin() as connection:
            project = {"id": new_id(), "user_id": user_id, "repo_url": repo_url, "name": "r"}
            project_id = connection.execute(insert(Project).values(project).returning(Project.id)).scalar_one()
        return cls(services, user_id, project_id, repo_url)

    def task(self, *, budget: str = "5", user_id: UUID | None = None, model: str = "replay:x") -> UUID:
        new = NewTask(
            user_id=user_id or self.user_id,
            project_id=None if user_id else self.project_id,
            repo_url=self.repo_url,
            prompt="make the failing test pass",
            agent="coder",
            model=model,
            base_branch=None,
            budget_usd=Decimal(budget),
            user_limit=100,
        )
        with self.services.tasks.transaction() as tx:
            task_id: UUID = transitions.create(tx, new).id
        return task_id

    def many_tasks(self, count: int) -> list[UUID]:
        """Pending tasks of the user in one statement. None of them has a wake-up."""
        same = {
            "user_id": self.user_id,
            "project_id": self.project_id,
            "repo_url": self.repo_url,
            "prompt": "p",
            "agent": "coder",
            "model": "replay:x",
            "budget_usd": 1,
        }
        tasks = [{"id": new_id(), **same} for _ in range(count)]
        with self.services.database.begin() as connection:
            connection.execute(insert(Task), tasks)
        return [UUID(str(task["id"])) for task in tasks]

    def worker(self, ttl: float = 60.0) -> UUID:
        with self.services.database.begin() as connection:
            return ownership.register(connection, name="w", slots=4, protocol_version=1, ttl=ttl)

    def claim(self, task_id: UUID, worker_id: UUID, limit: int = 100) -> Lease | None:
        with self.services.tasks.transaction() as tx:
            claimed = transitions.claim(
                tx, task_id, worker_id=worker_id, worker_name="w", sandbox="local", user_limit=limit
            )
        return claimed and claimed[0]

    def claimed(self) -> Lease:
        lease = self.claim(self.task(), self.worker())
        assert lease is not None
        return lease

    def row(self, task_id: UUID) -> TaskRow:
        with self.services.database.begin() as connection:
            return connection.execute(select(*Task.__table__.c).where(Task.id == task_id)).one()

    def events(self, task_id: UUID) -> list[str]:
        """Types in order; proves that `seq` has no holes."""
        with self.services.database.begin() as connection:
            events = read_events(connection, task_id, after=0, limit=1000).events
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        return [event["type"] for event in events]

    def let_die(self, worker_id: UUID) -> None:
        with self.services.database.begin() as connection:
            past = text("now() - interval '1 second'")
            connection.execute(update(Worker).where(Worker.id == worker_id).values(alive_until=past))

    def leave(self, worker_id: UUID, seconds: float = 5.0) -> None:
        with self.services.database.begin() as connection:
            ownership.leave(connection, worker_id, seconds=seconds)

    def sweep(self) -> list[TaskRow]:
        with self.services.tasks.transaction() as tx:
            return ownership.sweep_lost_workers(tx)

    def another_user(self) -> UUID:
        with self.services.database.begin() as connection:
            return connection.execute(
                insert(User)
                .values(id=new_id(), email=f"{new_id()}@example.invalid", password_hash="x")
                .returning(User.id)
            ).scalar_one()
