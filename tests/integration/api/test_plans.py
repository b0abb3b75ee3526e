"""Lists stay fast when the tables grow: none reads much more than the page that it shows.

The statements are those that the routes really send, planned by Postgres with the figures of a year's worth of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, select, text

from infra.services import Services
from infra.tables import Task
from infra.tasks import views
from tests.integration.api.conftest import Person

PAGE, EVENTS = 50, 200
"""The rows of a page, where the client asks for no other number."""
SPARE = 10
"""One more row tells whether there is a next page; a page of a frequent state may pass over some of others."""

# Time-ordered ids as `new_id` makes them, of each of 100 users over a year; one task of each user in 20 has failed.
_ROWS = """
create function pg_temp.id(age interval) returns uuid language sql volatile as $$
    select uuidv7(-age)
$$;
insert into users (id, email, password_hash)
    select gen_random_uuid(), n || '@example.invalid', 'x' from generate_series(1, 99) n;
insert into projects (id, user_id, repo_url, name, image)
    select pg_temp.id(interval '366 days'), users.id, 'https://example.com/' || n, 'r', 'image:' || n
    from users, generate_series(1, 100) n;
insert into images (reference, requested_by, requested_at, state)
    select 'image:' || n, (select id from users limit 1), now(), 'ready' from generate_series(1, 5000) n;
insert into api_tokens (id, user_id, name, token_hash)
    select pg_temp.id(n * interval '1 hour'), users.id, 't', users.id::text || n
    from users, generate_series(1, case when users.id = :user_id then 2000 else 20 end) n;
insert into tasks (id, user_id, project_id, repo_url, prompt, agent, model, budget_usd, status)
    select pg_temp.id((200 - n) * interval '40 hours'), users.id, project.id, 'r', 'p', 'coder', 'm', 1,
           case when n % 20 = 1 then 'failed' when n = 200 then 'pending' else 'completed' end
    from generate_series(1, 200) n, users,
         lateral (select id from projects where user_id = users.id limit 1) project;
insert into model_calls (id, task_id, attempt, step, try, model, state, reserved_usd, cost_usd, usage, started_at)
    select gen_random_uuid(), tasks.id, 1, 1, 1, 'm', 'settled', 1, 1, '{"input_tokens": 1}',
           now() - (random() * interval '365 days') from tasks;
create temporary table long (id uuid);
insert into long select id from tasks where status = 'failed' and user_id = :user_id;
create temporary table told (id uuid, rows int);
insert into told select id, 300 from long;
insert into told select id, 20 from tasks where status = 'completed' and random() < 0.05;
insert into steps (task_id, step, attempt, response) select id, n, 1, '{}' from long, generate_series(1, 100) n;
insert into tool_calls (task_id, step, index, tool_use_id, tool_name, input)
    select id, step, index, 't', 'run_command', '{}'
    from long, generate_series(1, 100) step, generate_series(0, 2) index;
insert into messages (id, task_id, role, text)
    select pg_temp.id(n * interval '1 minute'), id, 'assistant', 't' from told, generate_series(1, rows) n;
insert into events (task_id, seq, type, data)
    select id, n, 'message', '{"text": "t"}' from long, generate_series(1, 2000) n;
insert into egress_connections
    (id, task_id, attempt, host, port, method, decision, bytes_up, bytes_down, connections, started_at)
    select pg_temp.id(n * interval '1 minute'), id, 1, 'h', 443, 'CONNECT', 'allowed', 0, 0, 1, now()
    from told, generate_series(1, rows) n;
"""


@dataclass
class Plan:
    """What Postgres did for one statement."""

    statement: str
    nodes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def scanned_in_full(self) -> set[str]:
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    @property
    def rows_read(self) -> int:
        """Of tables, those that were looked at in vain too."""
        scans = [node for node in self.nodes if "Relation Name" in node]
        return sum(int((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"]) for n in scans)


@dataclass
class Year:
    """Many users, of whom one asks."""

    ada: Person
    services: Services

    @property
    def long_task(self) -> UUID:
        with self.services.database.read() as connection:
            mine = select(Task.id).where(Task.user_id == self.ada.id, Task.status == "failed")
            return connection.execute(mine.order_by(Task.id).limit(1)).scalar_one()

    def plans_of(self, path: str) -> list[Plan]:
        """The plans of every statement that a page and the page after it send."""
        with _statements() as sent:
            after = self.ada.get(path)["next"]
            if after is not None:
                self.ada.get(f"{path}{'&' if '?' in path else '?'}{'after' if '/events' in path else 'cursor'}={after}")
        return [self.plan_of(statement, parameters) for statement, parameters in sent]

    def plan_of(self, statement: str, parameters: Any) -> Plan:
        with self.services.database.read() as connection:
            found = connection.exec_driver_sql(f"explain (analyze, format json) {statement}", parameters).scalar_one()
        told = json.loads(found) if isinstance(found, str) else found
        return Plan(statement, list(_nodes(told[0]["Plan"])))


@contextmanager
def _statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to Postgres meanwhile, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@pytest.fixture
def year(ada: Person, services: Services) -> Year:
    with services.database.begin() as connection:
        connection.execute(text("set local statement_timeout = 0"))
        for statement in _ROWS.strip().split(";\n"):
            connection.execute(text(statement), {"user_id": ada.id} if ":user_id" in statement else {})
    with services.database.autocommit() as connection:
        connection.execute(text("vacuum analyze"))
    return Year(ada, services)


@pytest.mark.slow
def test_no_list_reads_much_more_than_it_shows(year: Year) -> None:
    """One test, as the rows take seconds to make."""
    task = f"/v1/tasks/{year.long_task}"
    lists = (
        *("/v1/tasks", *(f"/v1/tasks?status={status}" for status in ("completed", "failed", "pending"))),
        *("/v1/projects", "/v1/tokens"),
        *(f"{task}/{part}" for part in ("events", "messages", "tool-calls", "egress")),
    )
    for path in lists:
        plans = year.plans_of(path)
        assert plans, path
        for plan in plans:
            here = (path, plan.rows_read, plan.statement, plan.nodes)
            assert plan.scanned_in_full == set(), here
            assert plan.rows_read <= (EVENTS if path.endswith("/events") else PAGE) + SPARE, here

    (usage,) = year.plans_of(f"/v1/usage?since={datetime.now(UTC).date() - timedelta(days=6)}")
    assert usage.scanned_in_full == set(), usage.nodes

    with _statements() as sent, year.services.database.read() as connection:
        assert len(views.open_tasks(connection, user_id=year.ada.id)) == 1
    (feed,) = [year.plan_of(*statement) for statement in sent]
    assert (feed.scanned_in_full, feed.rows_read) == (set(), 1), feed.nodes
