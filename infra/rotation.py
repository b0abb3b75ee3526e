"""Secrets at rest are brought under the first key of the ring, so that an old key can be taken off it.

Any number of workers may do so at once, while users change their secrets. Each row is one statement that writes only
where the secret is still the one that was read: whoever was first wins, above all a user with a new secret. Who dies
leaves the rest under the old key, for the next pass, which reads all of them again. A secret that no key opens stays as
it is: the key may come back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute

from infra.crypto import KeyRing
from infra.db import Database
from infra.errors import ConfigurationError
from infra.tables import IdempotencyKey, Project

log = logging.getLogger(__name__)

PAGE = 200
"""So many secrets are read at a time."""

_SEALED: tuple[tuple[InstrumentedAttribute[Any], tuple[InstrumentedAttribute[Any], ...]], ...] = (
    (Project.git_token_encrypted, (Project.id,)),
    (Project.secrets, (Project.id,)),
    (IdempotencyKey.sealed, (IdempotencyKey.user_id, IdempotencyKey.operation, IdempotencyKey.key)),
)
"""Every encrypted column, with the primary key of its table. One of JSON holds a secret by each name."""


def rotate_secrets(database: Database, keys: KeyRing, *, page: int = PAGE) -> int:
    """Encrypt anew what is not under the first key; returns how many secrets were. Says in the log how it ended.

    With one key on the ring there is nothing to do, and nothing is read. Raises UnavailableError.
    """
    if not keys.has_old_keys:
        return 0
    rotated = lost = 0
    for column, row_id in _SEALED:
        for row in _all(database, column, row_id, page):
            sealed, identity = row[0], row[1:]
            try:
                renewed = _renewed(sealed, keys)
            except ConfigurationError:
                lost += 1
                continue
            if renewed is not None:
                rotated += _replace(database, column, tuple(zip(row_id, identity, strict=True)), sealed, renewed)
    if lost:
        log.warning(
            "no key of FARHAND_SECRET_KEYS opens %d of the stored secrets", lost, extra={"action": "secrets_lost"}
        )
    else:
        log.info(
            "every stored secret is under the first key of FARHAND_SECRET_KEYS; %d were encrypted anew",
            rotated,
            extra={"action": "secrets_rotated"},
        )
    return rotated


def _renewed(sealed: bytes | dict[str, str], keys: KeyRing) -> bytes | dict[str, str] | None:
    """None when all of it is under the first key already. Raises ConfigurationError."""
    if isinstance(sealed, bytes):
        return keys.rotate(sealed)
    renewed = {name: one for name, old in sealed.items() if (one := keys.rotate(old.encode())) is not None}
    return {**sealed, **{name: one.decode() for name, one in renewed.items()}} if renewed else None


def _all(
    database: Database, column: InstrumentedAttribute[Any], row_id: tuple[InstrumentedAttribute[Any], ...], page: int
) -> Iterator[Row[Any]]:
    """Secret and primary key of each row that has one, in the order of the key."""
    query = select(column, *row_id).where(column.is_not(None)).order_by(*row_id).limit(page)
    after: tuple[Any, ...] | None = None
    while True:
        with database.read() as connection:
            rows = connection.execute(query if after is None else query.where(tuple_(*row_id) > after)).all()
        yield from rows
        if len(rows) < page:
            return
        _, *last = rows[-1]
        after = tuple(last)


def _replace(
    database: Database,
    column: InstrumentedAttribute[Any],
    identity: tuple[tuple[InstrumentedAttribute[Any], Any], ...],
    old: bytes | dict[str, str],
    new: bytes | dict[str, str],
) -> int:
    """1, or 0 when the secret is another by now."""
    unchanged = (*(part == value for part, value in identity), column == old)
    with database.autocommit() as connection:
        return connection.execute(update(column.class_).where(*unchanged).values({column.key: new})).rowcount
