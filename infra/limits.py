"""How many tasks may run at a time. Every claim reads it anew, so a change counts from the next one on.

    of one user            users.max_concurrent_tasks; else the row `tasks_per_user`; else FARHAND_MAX_CONCURRENT_TASKS
    of the deployment      the row `tasks`; else as many as its workers have slots

Rows are those of `limits`. A smaller limit stops nothing that runs. With 0 nothing new starts; what waits, waits.
"""

from __future__ import annotations

from typing import cast
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from infra.errors import NotFoundError
from infra.tables import Limit, User

TASKS = "tasks"
TASKS_PER_USER = "tasks_per_user"

OF_USER = f"""coalesce(
    users.max_concurrent_tasks, (select value from limits where name = '{TASKS_PER_USER}'), :user_limit
)"""  # noqa: S608  (a constant of this module)
"""SQL: the limit of a row of `users`. `:user_limit` is FARHAND_MAX_CONCURRENT_TASKS."""

RUNNING_OF_USER = "(select count(*) from tasks running where running.status = 'running' and running.user_id = users.id)"
"""SQL: how many tasks of a row of `users` run."""
LEFT_IN_ALL = f"""coalesce((
    select greatest(value - (select count(*) from tasks running where running.status = 'running'), 0)
    from limits where name = '{TASKS}'
), 2147483647)"""  # noqa: S608
"""SQL: how many tasks more may run in the deployment; very many where nobody said."""

_HOLD_DEPLOYMENT = text("select from limits where name = 'tasks' for no key update")
_HOLD_USER = text("select from users where id = (select user_id from tasks where id = :task_id) for no key update")
_HAS_ROOM = (
    f"{LEFT_IN_ALL} > 0 and exists (select from users where users.id = tasks.user_id and {RUNNING_OF_USER} < {OF_USER})"
)


def hold(connection: Connection, task_id: UUID) -> None:
    """Lock what bounds a claim of this task until the transaction ends, so that racing claims count one another.

    Always in this order, and before the task's own row: so claims never wait for each other in a circle. The rows of
    users are not locked against new tasks, which take a weaker lock.
    """
    connection.execute(_HOLD_DEPLOYMENT)
    connection.execute(_HOLD_USER, {"task_id": task_id})


def room_for_task(user_limit: int) -> ColumnElement[bool]:
    """The guard of a claim, for a statement on `tasks` after `hold`: both limits leave room for one more."""
    return cast("ColumnElement[bool]", text(f"({_HAS_ROOM})").bindparams(user_limit=user_limit))


def read(connection: Connection) -> dict[str, int]:
    """The limits of the deployment that are set."""
    return {row.name: row.value for row in connection.execute(select(Limit.name, Limit.value))}


def change(connection: Connection, name: str, value: int | None) -> None:
    """Set a limit of the deployment (`TASKS` or `TASKS_PER_USER`); None takes it away."""
    if value is None:
        connection.execute(delete(Limit).where(Limit.name == name))
        return
    new = insert(Limit).values(name=name, value=value)
    connection.execute(new.on_conflict_do_update(index_elements=[Limit.name], set_={"value": value}))


def change_of_user(connection: Connection, email: str, value: int | None) -> None:
    """Give a user a limit of their own; None: that of everybody. Raises NotFoundError."""
    who = func.lower(User.email) == email.lower()
    if not connection.execute(update(User).where(who).values(max_concurrent_tasks=value)).rowcount:
        raise NotFoundError(f"there is no user {email}", hint="Check the address; `farhand limits` lists own limits.")


def of_users(connection: Connection) -> dict[str, int]:
    """E-mail address → limit, of the users who have one of their own."""
    own = select(User.email, User.max_concurrent_tasks).where(User.max_concurrent_tasks.is_not(None))
    return {row.email: row.max_concurrent_tasks for row in connection.execute(own.order_by(User.email))}
