"""Pages of lists: `{"items": […], "next": cursor or null}`. A cursor is opaque to clients."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import InvalidInputError

Json = dict[str, Any]
Cursor = Annotated[str, Field(max_length=100, description="`next` of the page before.")]


class Query(BaseModel):
    """Base of query parameters: an unknown one is an error, so that a typing mistake does not pass for a filter."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Query):
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


def page(items: list[Json], limit: int, cursor_of: Any) -> Json:
    """A page of at most `limit` out of up to `limit + 1` items that were read."""
    more = len(items) > limit
    shown = items[:limit]
    return {"items": shown, "next": cursor_of(shown[-1]) if more else None}


def encode(*parts: object) -> str:
    return base64.urlsafe_b64encode(".".join(map(str, parts)).encode()).decode().rstrip("=")


def decode_id(cursor: str | None) -> UUID | None:
    """Raises InvalidInputError (`cursor_invalid`)."""
    if cursor is None:
        return None
    try:
        return UUID(_decode(cursor))
    except ValueError:
        raise _invalid() from None


def decode_pair(cursor: str | None) -> tuple[int, int] | None:
    """Raises InvalidInputError (`cursor_invalid`)."""
    if cursor is None:
        return None
    left, _, right = _decode(cursor).partition(".")
    if not (left.isdecimal() and right.isdecimal() and len(left) < 10 and len(right) < 10):
        raise _invalid()
    return int(left), int(right)


def _decode(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise _invalid() from None


def _invalid() -> InvalidInputError:
    return InvalidInputError(
        "cursor: is not one of this list", hint="Take it from `next` of the page before.", code="cursor_invalid"
    )
