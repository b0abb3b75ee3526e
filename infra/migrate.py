"""Migrations: bring a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from infra.db import Database
from infra.errors import ConfigurationError
from infra.tables import Base

_LOCK = 0x6661_7268_616E_64
"""Advisory lock: two services that start at once migrate one after the other."""


def upgrade(database: Database) -> str:
    """Run what is missing; returns the revision that the database has then."""
    with database.begin() as connection:
        # Migrations may take longer than a request; locks they must not wait for long.
        connection.execute(text("set local statement_timeout = 0"))
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        command.upgrade(_config(connection), "head")
        return current(connection) or ""


def check_schema(database: Database) -> None:
    """Raises ConfigurationError when the database is not at the revision that this code needs."""
    with database.begin() as connection:
        found = current(connection)
    head = ScriptDirectory.from_config(_config(None)).get_current_head()
    if found != head:
        raise ConfigurationError(
            f"the database is at revision {found or 'none'}, this version needs {head}",
            hint="Run `farhand migrate`.",
            code="schema_outdated",
        )


def current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def differences(connection: Connection) -> list[object]:
    """What autogenerate would still change: empty when migrations and tables agree."""
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
    )
    return list(compare_metadata(context, Base.metadata))


def revision(database: Database, message: str, number: str) -> None:
    """Write a new migration from the difference between tables and database, for a developer to read over."""
    with database.begin() as connection:
        command.revision(_config(connection), message=message, autogenerate=True, rev_id=number)


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
