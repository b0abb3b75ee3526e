"""UUIDv7 keys (RFC 9562): they sort by time, so an index of them grows at one end and a list needs no other order."""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """A fresh UUIDv7."""
    return uuid7()
