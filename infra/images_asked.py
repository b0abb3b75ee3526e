"""Whether an image can be a sandbox's: who asks, which worker looks, and what it found.

    (no row) ──ask──► checking ──take──► held ──decide──► ready | refused
                        ▲                  │                    │
                        └──put_off─────────┘ ◄───────ask────────┘

checking   somebody wants to know. Any worker may take it, unless it rests
held       besides, `token` is set: one worker looks, until `not_before`; afterwards anybody may take it from that one
ready      it had all that a sandbox needs when it was looked at
refused    `error` says what it lacks

Who may write: ask: the API, for a user who saves a project. take: a worker, from `checking`, or from `held` once that
ran out. put_off, decide: the holder of the token, so a verdict that comes too late is not written.

What happens when somebody dies: the API after `ask`: the check is made all the same, and found by the next request. A
worker that holds it: its hold runs out, another one takes it, at most MAX_TRIES times. Before an attempt starts a
sandbox its worker looks for itself (`workers.images`), so a row that is old or lost costs a clear error, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, and_, delete, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from agent_runtime.protocol import Failure
from infra.errors import ConflictError
from infra.tables import Image, Project
from infra.tasks.transitions import in_seconds

HOLD_S = 1500.0
"""Longer than any look, a pull included."""
MAX_TRIES = 5
MAX_OPEN = 5
"""Checks that one user may have open at a time."""

_WANTED = {
    "state": "checking", "error": null(), "token": None, "not_before": None, "tries": 0, "requested_at": func.now(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """A worker's authority to say what an image is."""

    reference: str
    token: UUID
    tries: int

    @property
    def guard(self) -> tuple[ColumnElement[bool], ...]:
        return (Image.reference == self.reference, Image.token == self.token, Image.state == "checking")


def ask(connection: Connection, reference: str, *, user_id: UUID) -> None:
    """Have it looked at anew; one that is being looked at answers this request too.

    Raises ConflictError (`too_many_image_checks`).
    """
    mine = select(func.count()).where(
        Image.requested_by == user_id, Image.state == "checking", Image.reference != reference
    )
    if connection.execute(mine).scalar_one() >= MAX_OPEN:
        raise ConflictError(
            f"{MAX_OPEN} images that you have named are still being looked at",
            hint="Wait until they are: GET /v1/projects shows the state of each.",
            code="too_many_image_checks",
        )
    statement = upsert(Image).values(reference=reference, requested_by=user_id, **_WANTED)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[Image.reference],
            set_={**_WANTED, "requested_by": user_id},
            where=Image.state != "checking",
        )
    )


def found(connection: Connection, references: set[str]) -> dict[str, dict[str, Any]]:
    """`{state, error}` of each of these images that somebody has asked for."""
    if not references:
        return {}
    rows = connection.execute(select(Image.reference, Image.state, Image.error).where(Image.reference.in_(references)))
    return {row.reference: {"state": row.state, "error": row.error} for row in rows}


def take(connection: Connection) -> Look | None:
    """The next one to look at. None: there is none."""
    rested = or_(Image.not_before.is_(None), Image.not_before <= func.now())
    due = (
        select(Image.reference)
        .where(and_(Image.state == "checking", rested))
        .order_by(Image.tries, Image.requested_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = connection.execute(
        update(Image)
        .where(Image.reference == due)
        .values(token=uuid4(), not_before=in_seconds(HOLD_S), tries=Image.tries + 1)
        .returning(Image.reference, Image.token, Image.tries)
    ).one_or_none()
    return None if row is None else Look(row.reference, row.token, row.tries)


def put_off(connection: Connection, look: Look, seconds: float) -> None:
    """Not now: anybody may take it after `seconds`."""
    connection.execute(update(Image).where(*look.guard).values(token=None, not_before=in_seconds(seconds)))


def decide(connection: Connection, look: Look, error: Failure | None) -> bool:
    """Write what was found: None is `ready`. False: somebody else looks at it now."""
    values: dict[str, Any] = (
        {"state": "ready", "error": null()} if error is None else {"state": "refused", "error": error}
    )
    done = connection.execute(update(Image).where(*look.guard).values(token=None, not_before=None, **values))
    return bool(done.rowcount)


def forget_unnamed(connection: Connection, older_than: ColumnElement[Any]) -> int:
    """Delete what no project names; returns how many rows."""
    unnamed = ~select(Project.id).where(Project.image == Image.reference).exists()
    return connection.execute(delete(Image).where(unnamed, Image.requested_at < older_than)).rowcount
