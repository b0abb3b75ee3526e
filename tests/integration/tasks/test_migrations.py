from __future__ import annotations

from infra import migrate
from infra.services import Services
from infra.tasks.states import Status


def test_migrations_and_tables_agree(services: Services) -> None:
    with services.database.begin() as connection:
        assert migrate.differences(connection) == []


def test_upgrading_twice_changes_nothing(services: Services) -> None:
    assert migrate.upgrade(services.database) == migrate.upgrade(services.database)
    migrate.check_schema(services.database)


def test_the_status_constraint_knows_every_state(services: Services) -> None:
    with services.database.begin() as connection:
        definition = connection.exec_driver_sql(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = 'ck_tasks_status'"
        ).scalar_one()
    assert all(f"'{status}'" in definition for status in Status)
