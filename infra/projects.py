"""Projects: a repository of one user, with the credentials for it. Every statement is scoped to its user."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from uuid import UUID

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from infra.errors import ConflictError, NotFoundError
from infra.ids import new_id
from infra.tables import Project, Task
from infra.tasks.states import OPEN

ProjectRow = Row[Any]
PullRequestMode = Literal["never", "on_request", "always"]
"""When a task gets a pull request. `on_request`: when its user asks; from then on it is kept up to date."""


def default_name(repo_url: str) -> str:
    """`owner/name` of an address, at most 100 characters."""
    path = unquote(urlsplit(repo_url).path).strip("/").removesuffix(".git")
    return "/".join(path.split("/")[-2:])[-100:]


def create(connection: Connection, *, user_id: UUID, repo_url: str, values: dict[str, Any]) -> ProjectRow:
    """Raises ConflictError (`project_exists`)."""
    values = {"name": default_name(repo_url), **values}
    try:
        with connection.begin_nested():
            statement = insert(Project).values(id=new_id(), user_id=user_id, repo_url=repo_url, **values)
            return connection.execute(statement.returning(*Project.__table__.c)).one()
    except IntegrityError:
        found = connection.execute(
            select(Project.id).where(Project.user_id == user_id, Project.repo_url == repo_url)
        ).scalar_one()
        raise ConflictError(
            "you have a project of this repository already",
            hint=f"It is {found}; change that one.",
            code="project_exists",
        ) from None


def get(connection: Connection, project_id: UUID, *, user_id: UUID, to_change: bool = False) -> ProjectRow:
    """`to_change`: nobody else changes it before this transaction ends. Raises NotFoundError."""
    query = select(*Project.__table__.c).where(*_mine(project_id, user_id))
    if to_change:
        query = query.with_for_update(key_share=True)
    row = connection.execute(query).one_or_none()
    return row if row is not None else _missing()


def list_newest_first(connection: Connection, *, user_id: UUID, before: UUID | None, limit: int) -> list[ProjectRow]:
    query = select(*Project.__table__.c).where(Project.user_id == user_id).order_by(Project.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Project.id < before)
    return list(connection.execute(query))


def change(connection: Connection, project_id: UUID, *, user_id: UUID, values: dict[str, Any]) -> ProjectRow:
    """Raises NotFoundError."""
    if not values:
        return get(connection, project_id, user_id=user_id)
    statement = update(Project).where(*_mine(project_id, user_id)).values(values).returning(*Project.__table__.c)
    row = connection.execute(statement).one_or_none()
    return row if row is not None else _missing()


def remove(connection: Connection, project_id: UUID, *, user_id: UUID) -> None:
    """Delete a project and its ended tasks.

    Raises:
        NotFoundError
        ConflictError: `project_in_use`: a task of it has not ended.
    """
    locked = select(Project.id).where(*_mine(project_id, user_id)).with_for_update()
    if connection.execute(locked).one_or_none() is None:
        _missing()
    # New tasks wait for that lock; one that is running may still end, one that has ended may be woken: lock these too.
    tasks = connection.execute(select(Task.status).where(Task.project_id == project_id).with_for_update()).scalars()
    unfinished = sum(status in OPEN for status in tasks)
    if unfinished:
        raise ConflictError(
            f"{unfinished} of its tasks {'has' if unfinished == 1 else 'have'} not ended",
            hint="Cancel them, or wait until they end.",
            code="project_in_use",
        )
    connection.execute(delete(Project).where(Project.id == project_id))


def _mine(project_id: UUID, user_id: UUID) -> tuple[Any, ...]:
    return (Project.id == project_id, Project.user_id == user_id)


def _missing() -> Any:
    raise NotFoundError("there is no such project")
