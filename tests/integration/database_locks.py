"""Who waits for whom in Postgres."""

from __future__ import annotations

from sqlalchemy import text

from infra.services import Services


def wait_until_somebody_waits(services: Services) -> None:
    """Until a statement in this database is held up by a lock. Raises TimeoutError."""
    blocked = text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
    with services.database.autocommit() as connection:
        for _ in range(2000):
            if connection.execute(blocked).scalar_one():
                return
            connection.execute(text("select pg_sleep(0.005)"))
    raise TimeoutError("nobody waited")
