"""What is kept for a while only: answers to repeated requests, sessions that are over, and rows of dead workers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, func, select

from infra.tables import IdempotencyKey, RefreshToken, Task, Worker

KEPT = timedelta(days=7)
"""A client repeats a request within hours; a stolen refresh token is noticed for as long as its row is there. And a
worker that was taken for dead, and comes back, must find that out from its row."""


def forget_old(connection: Connection) -> int:
    """Delete what is older than KEPT; returns how many rows."""
    past = func.now() - KEPT
    owns_nothing = ~select(Task.id).where(Task.worker_id == Worker.id).exists()
    old = (
        delete(IdempotencyKey).where(IdempotencyKey.created_at < past),
        delete(RefreshToken).where(RefreshToken.expires_at < past),
        delete(Worker).where(Worker.swept_at < past, Worker.alive_until < past, owns_nothing),
    )
    return sum(connection.execute(statement).rowcount for statement in old)
