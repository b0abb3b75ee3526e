"""Routes of API tokens (for scripts and the CLI) and of the stream's tickets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, Row, delete, insert, select

from api import answers
from api.auth.identity import API_TOKEN_PREFIX
from api.fields import Name, Request
from api.idempotency import once
from api.pages import PageQuery, decode_id, encode, page
from api.routes import Call, Json, Reply, Routes
from infra.bus import TICKET_TTL_S
from infra.crypto import fingerprint, new_secret
from infra.errors import NotFoundError
from infra.ids import new_id
from infra.tables import ApiToken
from infra.tasks.log import rfc3339

routes = Routes("tokens")


class NewToken(Request):
    name: Name
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = Field(None, description="Default: never.")


@routes.post("/v1/tokens", answer=answers.NewToken, status=201, idempotent=True)
def create_token(call: Call, body: NewToken) -> Reply:
    """Make an API token, to be sent as `Authorization: Bearer fh_…`. It is shown this once and never again."""
    token = API_TOKEN_PREFIX + new_secret()
    lifetime = body.expires_in_days and timedelta(days=body.expires_in_days)
    values = {
        "id": new_id(),
        "user_id": call.user_id,
        "name": body.name,
        "token_hash": fingerprint(token),
        "expires_at": datetime.now(UTC) + lifetime if lifetime else None,
    }

    def act(connection: Connection) -> Json:
        row = connection.execute(insert(ApiToken).values(values).returning(*ApiToken.__table__.c)).one()
        return {**_token_json(row), "token": token}

    made = once(call.services, call.key_of("create_token", body.model_dump(mode="json")), act, status=201, secret=True)
    return Reply.once(made.body, replayed=made.replayed)


@routes.get("/v1/tokens", answer=answers.Page[answers.Token])
def list_tokens(call: Call, query: PageQuery) -> Json:
    """Your API tokens, newest first."""
    before = decode_id(query.cursor)
    statement = select(*ApiToken.__table__.c).where(ApiToken.user_id == call.user_id).order_by(ApiToken.id.desc())
    if before is not None:
        statement = statement.where(ApiToken.id < before)
    with call.services.database.read() as connection:
        rows = connection.execute(statement.limit(query.limit + 1))
        return page([_token_json(row) for row in rows], query.limit, lambda item: encode(item["id"]))


@routes.delete("/v1/tokens/<uuid:token_id>")
def delete_token(call: Call, token_id: UUID) -> Reply:
    """Take an API token back; it is worthless at once."""
    with call.services.database.begin() as connection:
        found = connection.execute(
            delete(ApiToken).where(ApiToken.id == token_id, ApiToken.user_id == call.user_id)
        ).rowcount
    if not found:
        raise NotFoundError("there is no such token")
    return Reply(None)


@routes.post("/v1/stream-tickets", answer=answers.Ticket, status=201)
def create_ticket(call: Call) -> Json:
    """A ticket for the stream, for clients that can't send headers with a WebSocket: good once, for 30 seconds."""
    return {"ticket": call.services.bus.issue_ticket(call.user_id), "expires_in": TICKET_TTL_S}


def _token_json(row: Row[Any]) -> Json:
    return {
        "id": str(row.id),
        "name": row.name,
        "created_at": rfc3339(row.created_at),
        "expires_at": row.expires_at and rfc3339(row.expires_at),
        "last_used_at": row.last_used_at and rfc3339(row.last_used_at),
    }
