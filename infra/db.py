"""The connection to Postgres: one engine a process, a transaction a block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import Retrying, retry_if_exception_type, wait_exponential_jitter

from infra.errors import ConfigurationError, UnavailableError

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 15_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
"""A process that is stopped in the middle of a transaction holds up who takes its tasks over for no longer."""
_CONNECT_ARGS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
    f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS}",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
PING_AFTER_S = 1.0
"""A connection that was idle for longer is tried before it is used: the server may have been restarted."""

T = TypeVar("T")


class Database:
    """A pool of connections to one database.

    Guarantee: a block of `begin` is one transaction; it is committed when the block ends and rolled back when it
    raises. An unreachable server is `UnavailableError`, whatever the driver calls it.
    """

    def __init__(self, url: str, *, pool_size: int = 10, max_overflow: int = 20) -> None:
        if not url:
            raise ConfigurationError("FARHAND_DATABASE_URL is not set")
        self.url = make_url(url).set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "pool_timeout": CONNECT_TIMEOUT_S,
            "pool_use_lifo": True,  # a few connections that are used all the time need no ping
            "pool_recycle": 600,
            "connect_args": _CONNECT_ARGS,
        }
        self.engine: Engine = create_engine(self.url, **options)
        # With a pool of its own: to switch a connection back and forth costs more than most of its queries.
        self._autocommit = create_engine(
            self.url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, skip_autocommit_rollback=True, **options
        )
        for engine in (self.engine, self._autocommit):
            _ping_idle_connections(engine)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction. Raises UnavailableError when Postgres can't be reached or the connection broke."""
        with _unavailable_said(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Statements that are transactions of their own: one query costs one round trip.

        Raises UnavailableError as `begin` does.
        """
        with _unavailable_said(), self._autocommit.connect() as connection:
            yield connection

    read = autocommit
    """The same, where it is only read."""

    def close(self) -> None:
        self.engine.dispose()
        self._autocommit.dispose()


def _ping_idle_connections(engine: Engine) -> None:
    """So that the first to ask after a restart of Postgres does not pay for it, at no cost for a busy connection."""

    @event.listens_for(engine, "checkin")
    def note(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("idle_since", time.monotonic()) < PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # the pool then makes new connections, and tries again


def patiently(do: Callable[[], T]) -> T:
    """Call `do` again and again while Postgres is away.

    Doing it once more must change nothing, as the answer to a commit can be lost.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(UnavailableError),
        wait=wait_exponential_jitter(multiplier=0.1, max=2.0),
        reraise=True,
    )
    return retrying(do)


@contextmanager
def _unavailable_said() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise UnavailableError("every connection to the database is in use") from error
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error, OperationalError):
            raise UnavailableError(f"the database does not answer: {error.orig}") from error
        raise
