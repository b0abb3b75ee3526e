"""Refresh tokens: each is good once, and gives the next one of its family.

A used token that comes back means that two parties hold the chain and one of them stole it: the whole family ends.
There is no grace: a client must not send the same token twice, so it keeps one refresh in flight at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.orm import aliased

from api.auth import access
from infra.crypto import fingerprint, new_secret
from infra.errors import UnauthenticatedError
from infra.ids import new_id
from infra.services import Services
from infra.tables import RefreshToken


@dataclass(frozen=True, slots=True)
class Session:
    """What a login or a refresh gives to the client. `expires_in` seconds of the access token."""

    user_id: UUID
    access_token: str
    refresh_token: str
    expires_in: int


def start(services: Services, connection: Connection, user_id: UUID) -> Session:
    """A new family."""
    return _next(services, connection, user_id, new_id())


def refresh(services: Services, token: str) -> Session:
    """Trade a refresh token for a session.

    Raises:
        UnauthenticatedError: `refresh_token_reused` (its family is revoked now), `refresh_token_invalid`.
    """
    # Of the whole family: a token that was being made while its family was revoked escaped that statement.
    relative = aliased(RefreshToken)
    revoked = select(relative.id).where(relative.family_id == RefreshToken.family_id, relative.revoked_at.is_not(None))
    with services.database.begin() as connection:
        row = connection.execute(
            update(RefreshToken)
            .where(
                RefreshToken.token_hash == fingerprint(token),
                RefreshToken.used_at.is_(None),
                RefreshToken.revoked_at.is_(None),
                ~revoked.exists(),
                RefreshToken.expires_at > func.now(),
            )
            .values(used_at=func.now())
            .returning(RefreshToken.user_id, RefreshToken.family_id)
        ).one_or_none()
        if row is not None:
            return _next(services, connection, row.user_id, row.family_id)
        reused = _revoke_family(connection, token, only_if_used=True)
    if reused:
        raise UnauthenticatedError(
            "this refresh token was used before; its session has been ended",
            hint="Log in again. If you did not use it twice yourself, somebody else has it.",
            code="refresh_token_reused",
        )
    raise UnauthenticatedError("the refresh token is not valid", hint="Log in again.", code="refresh_token_invalid")


def end(services: Services, token: str) -> None:
    """End the session of a refresh token; nothing happens for an unknown one."""
    with services.database.begin() as connection:
        _revoke_family(connection, token, only_if_used=False)


def _next(services: Services, connection: Connection, user_id: UUID, family_id: UUID) -> Session:
    settings = services.settings
    token = new_secret()
    connection.execute(
        insert(RefreshToken).values(
            id=new_id(),
            user_id=user_id,
            family_id=family_id,
            token_hash=fingerprint(token),
            expires_at=func.now() + timedelta(seconds=settings.refresh_token_ttl),
        )
    )
    return Session(user_id, access.issue(services, user_id), token, settings.access_token_ttl)


def _revoke_family(connection: Connection, token: str, *, only_if_used: bool) -> bool:
    """Whether there was such a token."""
    named = select(RefreshToken.family_id).where(RefreshToken.token_hash == fingerprint(token))
    if only_if_used:
        named = named.where(RefreshToken.used_at.is_not(None))
    family = connection.execute(named).scalar_one_or_none()
    if family is None:
        return False
    connection.execute(
        update(RefreshToken)
        .where(RefreshToken.family_id == family, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
    return True
