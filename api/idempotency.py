"""A POST that is repeated with the same key is done once: the repeat is told what the first was told.

The key is claimed in the transaction of the action itself. So a crash leaves neither, and of two at the same time the
second waits for the first to commit. An answer that shows a secret is kept under the key ring, as all secrets at rest.

Every POST of a user takes a key, but for stream tickets: what they give is gone in seconds, and a repeat gets another.
The public ones (`/v1/auth/…`) have no user whose key it could be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from infra.crypto import KeyRing
from infra.errors import InvalidInputError
from infra.services import Services
from infra.tables import IdempotencyKey

MAX_KEY_CHARS = 200
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key for one operation, with a digest of what it asks for."""

    user_id: UUID
    operation: str
    key: str
    digest: str

    @classmethod
    def of(cls, user_id: UUID, operation: str, key: str, request: Json) -> Key:
        """`request` must be JSON. Raises InvalidInputError (`idempotency_key_invalid`)."""
        if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
            raise InvalidInputError(
                f"an idempotency key has 1 to {MAX_KEY_CHARS} printable ASCII characters",
                hint="Use a fresh UUID for each thing that you want done.",
                code="idempotency_key_invalid",
            )
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return cls(user_id, operation, key, digest)

    @property
    def row(self) -> tuple[Any, ...]:
        table = IdempotencyKey
        return (table.user_id == self.user_id, table.operation == self.operation, table.key == self.key)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to answer. `replayed`: an earlier request with the same key did it."""

    body: Json
    replayed: bool = False


def once(
    services: Services, key: Key | None, act: Callable[[Connection], Json], *, status: int, secret: bool = False
) -> Outcome:
    """Do `act` in a transaction, unless an earlier request with `key` did. `secret`: its answer shows a secret.

    Raises what `claim` and `act` do.
    """
    with services.database.begin() as connection:
        if key is not None and (kept := claim(connection, key, services.keys)) is not None:
            return Outcome(kept, replayed=True)
        body = act(connection)
        if key is not None:
            keep(connection, key, status, body, seal=services.keys if secret else None)
    return Outcome(body)


def claim(connection: Connection, key: Key, keys: KeyRing) -> Json | None:
    """Take the key for this transaction; None means it is yours and the action is to be done, then `keep` its answer.

    Otherwise the kept answer. Waits while another transaction holds the key.

    Raises:
        InvalidInputError: `idempotency_mismatch`: the key was used for something else.
        ConfigurationError: the answer is sealed with a key that was taken off the ring.
    """
    fresh = connection.execute(
        insert(IdempotencyKey)
        .values(
            user_id=key.user_id,
            operation=key.operation,
            key=key.key,
            request_hash=key.digest,
            status=0,
            body={},
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    ).one_or_none()
    if fresh is not None:
        return None
    kept = connection.execute(
        select(IdempotencyKey.request_hash, IdempotencyKey.body, IdempotencyKey.sealed).where(*key.row)
    ).one()
    if kept.request_hash != key.digest:
        raise InvalidInputError(
            "this idempotency key was used for another request",
            hint="Use a fresh key for each thing that you want done, and repeat a request unchanged.",
            code="idempotency_mismatch",
        )
    body: Json = kept.body if kept.sealed is None else json.loads(keys.decrypt(kept.sealed))
    return body


def keep(connection: Connection, key: Key, status: int, body: Json, *, seal: KeyRing | None = None) -> None:
    """Store the answer beside the action, encrypted by `seal` if there is one."""
    answer = {"body": body} if seal is None else {"sealed": seal.encrypt(json.dumps(body))}
    connection.execute(update(IdempotencyKey).where(*key.row).values(status=status, **answer))
