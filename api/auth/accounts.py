"""Routes of accounts and sessions: register, login, refresh, logout, me, invites."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Response, json, request
from pydantic import Field
from sqlalchemy import Connection, Row, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from api import answers
from api.auth import cookies, passwords, sessions
from api.fields import Email, Password, Request, Secret
from api.idempotency import once
from api.routes import Call, Json, Reply, Routes
from infra.crypto import fingerprint, new_secret
from infra.errors import ConflictError, ForbiddenError, UnauthenticatedError
from infra.ids import new_id
from infra.services import Services
from infra.tables import Invite, User
from infra.tasks.log import rfc3339

routes = Routes("auth")

COOKIES_HEADER = "X-Farhand-Cookies"
INVITE_TTL = timedelta(days=7)
_REGISTRATION_LOCK = 0x6661_7268_7265_67
"""Advisory lock: of two first users at once, one is the first."""


class Credentials(Request):
    email: Email
    password: Password


class Registration(Credentials):
    invite: Secret | None = Field(None, description="An invite's code, where registration is by invite.")


class Login(Request):
    email: str = Field(max_length=254)
    password: str = Field(max_length=1000)
    cookies: bool = Field(False, description="Set cookies as well; so does the header `X-Farhand-Cookies: 1`.")


class Refresh(Request):
    """Without `refresh_token` the cookie is used."""

    refresh_token: Secret | None = None


@routes.post("/v1/auth/register", answer=answers.Me, status=201, public=True, limited=True)
def register(call: Call, body: Registration) -> Json:
    """Make an account. The first one of a deployment is its admin; later ones as FARHAND_REGISTRATION says."""
    with call.services.database.begin() as connection:
        # Asked before the password is hashed, which is dear; asked again under the lock.
        _check_open(call.services, is_first=_nobody_yet(connection))
    password_hash = passwords.hashed(body.password)
    with call.services.database.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _REGISTRATION_LOCK})
        is_first = _nobody_yet(connection)
        _check_open(call.services, is_first=is_first)
        if not is_first and call.services.settings.registration == "invite":
            _use_invite(connection, body.invite)
        return _me_json(_insert(connection, body.email, password_hash, is_admin=is_first))


@routes.post("/v1/auth/login", answer=answers.Session, public=True, limited=True)
def login(call: Call, body: Login) -> Response:
    """Start a session. Unknown address and wrong password have the same answer, after the same time."""
    with call.services.database.read() as connection:
        user = connection.execute(
            select(User.id, User.password_hash).where(func.lower(User.email) == func.lower(_storable(body.email)))
        ).one_or_none()
    if not passwords.matches(user and user.password_hash, body.password) or user is None:
        raise UnauthenticatedError(
            "the address or the password is wrong", hint="Check both, then try again.", code="login_failed"
        )
    renewed = passwords.hashed(body.password) if passwords.is_outdated(user.password_hash) else None
    with call.services.database.begin() as connection:
        if renewed:
            connection.execute(update(User).where(User.id == user.id).values(password_hash=renewed))
        session = sessions.start(call.services, connection, user.id)
    return _session(call.services, session, with_cookies=body.cookies or request.headers.get(COOKIES_HEADER) == "1")


@routes.post("/v1/auth/refresh", answer=answers.Session, public=True, limited=True)
def refresh(call: Call, body: Refresh) -> Response:
    """Trade a refresh token, which is good once, for a new session. A token used twice ends its session."""
    token, from_cookie = _refresh_token(call.services, body)
    if token is None:
        raise UnauthenticatedError("there is no refresh token", hint="Log in.", code="refresh_token_invalid")
    session = sessions.refresh(call.services, token)
    # What a script of the page could read, a script that was injected into it could carry away.
    return _session(call.services, session, with_cookies=from_cookie, with_tokens=not from_cookie)


@routes.post("/v1/auth/logout", status=204, public=True)
def logout(call: Call, body: Refresh) -> Response:
    """End the session of a refresh token and clear the cookies. The access token lives on for its few minutes."""
    token, _ = _refresh_token(call.services, body)
    if token is not None:
        sessions.end(call.services, token)
    response = Response(status=204)
    cookies.clear_session(response)
    return response


@routes.get("/v1/me", answer=answers.Me)
def me(call: Call) -> Json:
    """Who you are."""
    with call.services.database.read() as connection:
        return _me_json(_user(connection, call.user_id))


@routes.post("/v1/invites", answer=answers.Invite, status=201, idempotent=True)
def invite(call: Call) -> Reply:
    """A code that registers one account within a week. For admins."""
    code, expires_at = new_secret(), datetime.now(UTC) + INVITE_TTL
    values = {"id": new_id(), "code_hash": fingerprint(code), "created_by": call.user_id, "expires_at": expires_at}

    def act(connection: Connection) -> Json:
        if not _user(connection, call.user_id).is_admin:
            raise ForbiddenError("only an admin may invite", hint="Ask the first user of this deployment.")
        connection.execute(insert(Invite).values(values))
        return {"id": str(values["id"]), "code": code, "expires_at": rfc3339(expires_at)}

    made = once(call.services, call.key_of("invite", {}), act, status=201, secret=True)
    return Reply.once(made.body, replayed=made.replayed)


def _nobody_yet(connection: Connection) -> bool:
    return connection.execute(select(User.id).limit(1)).one_or_none() is None


def _check_open(services: Services, *, is_first: bool) -> None:
    if services.settings.registration == "closed" and not is_first:
        raise ForbiddenError(
            "registration is closed",
            hint="Ask the operator for an account, or to set FARHAND_REGISTRATION to invite or open.",
            code="registration_closed",
        )


def _use_invite(connection: Connection, code: str | None) -> None:
    used = connection.execute(
        update(Invite)
        .where(Invite.code_hash == fingerprint(code or ""), Invite.used_at.is_(None), Invite.expires_at > func.now())
        .values(used_at=func.now())
    ).rowcount
    if not used:
        raise ForbiddenError(
            "registration needs an invite that is fresh and was not used",
            hint="Ask an admin of this deployment for one.",
            code="invite_invalid",
        )


def _insert(connection: Connection, email: str, password_hash: str, *, is_admin: bool) -> Row[Any]:
    values = {"id": new_id(), "email": email, "password_hash": password_hash, "is_admin": is_admin}
    row = connection.execute(
        upsert(User).values(values).on_conflict_do_nothing().returning(*User.__table__.c)
    ).one_or_none()
    if row is None:
        raise ConflictError("there is an account of this address", hint="Log in with it.", code="email_taken")
    return row


def _user(connection: Connection, user_id: UUID) -> Row[Any]:
    row = connection.execute(select(*User.__table__.c).where(User.id == user_id)).one_or_none()
    if row is None:
        raise UnauthenticatedError("this account does not exist any more")
    return row


def _me_json(row: Row[Any]) -> Json:
    return {
        "id": str(row.id),
        "email": row.email,
        "is_admin": row.is_admin,
        "created_at": rfc3339(row.created_at),
    }


def _storable(value: str) -> str:
    """Postgres has no NUL in texts; no address has one either."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _refresh_token(services: Services, body: Refresh) -> tuple[str | None, bool]:
    """The token, and whether the browser's cookie brought it."""
    if body.refresh_token is not None:
        return body.refresh_token, False
    token = request.cookies.get(cookies.REFRESH)
    if token:
        cookies.check_forgery(services.settings, request)
    return token, True


def _session(
    services: Services, session: sessions.Session, *, with_cookies: bool, with_tokens: bool = True
) -> Response:
    body: Json = {"token_type": "Bearer", "expires_in": session.expires_in}
    if with_tokens:
        body |= {"access_token": session.access_token, "refresh_token": session.refresh_token}
    if not with_cookies:
        return Response(json.dumps(body), content_type="application/json")
    body["csrf_token"] = new_secret()
    response = Response(json.dumps(body), content_type="application/json")
    cookies.set_session(response, services.settings, request, session, body["csrf_token"])
    return response
