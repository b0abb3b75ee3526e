"""Whose request this is. Used by every REST route and by the gateway."""

from __future__ import annotations

from uuid import UUID

from flask import Request, request
from sqlalchemy import Connection, text

from api.auth import access, cookies
from infra.crypto import fingerprint
from infra.errors import UnauthenticatedError
from infra.services import Services

API_TOKEN_PREFIX = "fh_"  # noqa: S105  (what tells API tokens from access tokens)


def authenticate_request(services: Services) -> UUID:
    """The user of the current request: by `Authorization: Bearer …`, else by cookie, guarded against forgery.

    Raises:
        UnauthenticatedError
        ForbiddenError: the cookie is good, and the request may come from another site.
    """
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("only Bearer authorization is understood")
        return authenticate_bearer(services, token.strip())
    user_id = authenticate_cookie(services, request)
    if user_id is None:
        raise UnauthenticatedError("you are not logged in")
    cookies.check_forgery(services.settings, request)
    return user_id


def authenticate_bearer(services: Services, token: str) -> UUID:
    """The user of an API token (`fh_…`, one indexed query) or of an access token (no query).

    Raises UnauthenticatedError.
    """
    if not token.startswith(API_TOKEN_PREFIX):
        return access.verify(services, token)
    with services.database.read() as connection:
        return _owner_of(connection, token)


def authenticate_cookie(services: Services, request: Request) -> UUID | None:
    """The user of the session cookie; None without one. Raises UnauthenticatedError when it is expired or made up.

    Whoever lets a cookie act must check the Origin too: `cookies.origin_is_ours`.
    """
    token = request.cookies.get(cookies.ACCESS)
    return None if not token else access.verify(services, token)


# Text, since it is on the way of every request: building a statement costs as much as running this one.
_OWNER = text("""
select id, user_id, (last_used_at is null or last_used_at < now() - interval '1 minute') as unseen
from api_tokens where token_hash = :token_hash and (expires_at is null or expires_at > now())
""")
_SEEN = text("""
update api_tokens set last_used_at = now()
where id = :id and (last_used_at is null or last_used_at < now() - interval '1 minute')
""")


def _owner_of(connection: Connection, token: str) -> UUID:
    row = connection.execute(_OWNER, {"token_hash": fingerprint(token)}).one_or_none()
    if row is None:
        raise UnauthenticatedError("the API token is not valid or has expired", code="token_invalid")
    if row.unseen:
        # Once a minute and token: what a person looks at to find tokens that nobody uses.
        connection.execute(_SEEN, {"id": row.id})
    user_id: UUID = row.user_id
    return user_id
