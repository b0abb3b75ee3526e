"""What is kept for a while only: answers to repeated requests, sessions that are over, images that nobody names."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, func

from infra import images_asked
from infra.tables import IdempotencyKey, RefreshToken

KEPT = timedelta(days=7)
"""A client repeats a request within hours; a stolen refresh token is noticed for as long as its row is there."""


def forget_old(connection: Connection) -> int:
    """Delete what is older than KEPT; returns how many rows."""
    answers = delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT)
    sessions = delete(RefreshToken).where(RefreshToken.expires_at < func.now() - KEPT)
    images = images_asked.forget_unnamed(connection, func.now() - KEPT)
    return connection.execute(answers).rowcount + connection.execute(sessions).rowcount + images
