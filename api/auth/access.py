"""Access tokens: short-lived JWTs that any API process verifies without asking the database."""

from __future__ import annotations

import functools
import time
from uuid import UUID

import jwt

from infra.crypto import KeyRing, fingerprint
from infra.errors import UnauthenticatedError
from infra.services import Services

_ALGORITHM = "HS256"


def issue(services: Services, user_id: UUID) -> str:
    """A token that names the user for FARHAND_ACCESS_TOKEN_TTL seconds."""
    now = int(time.time())
    kid, key = next(iter(_keys(services.keys).items()))
    claims = {"sub": str(user_id), "iat": now, "exp": now + services.settings.access_token_ttl}
    return jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": kid})


def verify(services: Services, token: str) -> UUID:
    """The user of a token. Raises UnauthenticatedError (`token_expired`, `token_invalid`)."""
    try:
        key = _keys(services.keys)[jwt.get_unverified_header(token).get("kid", "")]
        claims = jwt.decode(token, key, algorithms=[_ALGORITHM], options={"require": ["sub", "exp"]})
        return UUID(claims["sub"])
    except jwt.ExpiredSignatureError:
        raise UnauthenticatedError(
            "the access token has expired", hint="Refresh it, or log in again.", code="token_expired"
        ) from None
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
        raise UnauthenticatedError("the access token is not valid", code="token_invalid") from None


@functools.lru_cache(maxsize=8)
def _keys(ring: KeyRing) -> dict[str, bytes]:
    """Key id → key, the signing one first. A key taken off the ring ends the sessions that it signed."""
    return {fingerprint(key.hex())[:16]: key for key in ring.signing_keys("access-token")}
