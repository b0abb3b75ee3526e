"""Accounts, sessions, API tokens, invites."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import argon2
import jwt
import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, text, update
from werkzeug.test import TestResponse

from api.auth import access, passwords
from api.auth.identity import authenticate_bearer
from infra.crypto import KeyRing, fingerprint
from infra.errors import UnauthenticatedError
from infra.services import Services
from infra.tables import ApiToken, RefreshToken, User
from tests.integration.api.conftest import Person

ADA = {"email": "ada@example.test", "password": "correct horse"}
BOB = {"email": "bob@example.test", "password": "battery staple"}


def register(http: FlaskClient, who: dict[str, Any], status: int = 201) -> Any:
    response = http.post("/v1/auth/register", json=who)
    assert response.status_code == status, response.text
    return response.json


def login(http: FlaskClient, who: dict[str, Any], status: int = 200) -> Any:
    response = http.post("/v1/auth/login", json=who)
    assert response.status_code == status, response.text
    return response.json


def refresh(http: FlaskClient, token: str, status: int = 200) -> Any:
    response = http.post("/v1/auth/refresh", json={"refresh_token": token})
    assert response.status_code == status, response.text
    return response.json


def me(http: FlaskClient, token: str) -> TestResponse:
    return http.get("/v1/me", headers={"Authorization": f"Bearer {token}"})


def at_once(count: int, what: Callable[[int], None]) -> None:
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(20)
        what(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


# ---- registration ---------------------------------------------------------------------------------------------


def test_the_first_user_is_admin_and_then_registration_is_closed(http: FlaskClient) -> None:
    assert register(http, ADA)["is_admin"] is True
    refused = register(http, BOB, 403)
    assert refused["code"] == "registration_closed"
    assert "FARHAND_REGISTRATION" in refused["hint"]


@pytest.mark.parametrize("more_settings", [{"registration": "open"}])
def test_of_first_users_at_the_same_time_one_is_admin(
    http: FlaskClient, services: Services, more_settings: dict[str, Any]
) -> None:
    answers: list[Any] = []
    at_once(4, lambda n: answers.append(register(http, {**ADA, "email": f"u{n}@example.test"})))
    assert sorted(answer["is_admin"] for answer in answers) == [False, False, False, True]


def test_of_first_users_at_the_same_time_one_gets_in_where_it_is_closed(http: FlaskClient, services: Services) -> None:
    statuses: list[int] = []

    def attempt(number: int) -> None:
        body = {**ADA, "email": f"u{number}@example.test"}
        statuses.append(http.post("/v1/auth/register", json=body).status_code)

    at_once(4, attempt)
    assert sorted(statuses) == [201, 403, 403, 403]
    with services.database.begin() as connection:
        assert connection.execute(select(func.count()).select_from(User)).scalar_one() == 1


@pytest.mark.parametrize("more_settings", [{"registration": "open"}])
def test_an_address_registers_once_however_it_is_written(http: FlaskClient, more_settings: dict[str, Any]) -> None:
    assert register(http, ADA)["email"] == "ada@example.test"
    assert register(http, BOB)["is_admin"] is False
    assert register(http, {**BOB, "email": "BOB@Example.Test"}, 409)["code"] == "email_taken"
    login(http, {**BOB, "email": "Bob@example.test"})


@pytest.mark.parametrize("more_settings", [{"registration": "invite"}])
def test_an_invite_registers_one_account(http: FlaskClient, services: Services, more_settings: dict[str, Any]) -> None:
    register(http, ADA)
    admin = {"Authorization": f"Bearer {login(http, ADA)['access_token']}"}
    for wrong in ({}, {"invite": "made up"}):
        assert register(http, {**BOB, **wrong}, 403)["code"] == "invite_invalid"
    code = http.post("/v1/invites", headers=admin).json["code"]  # type: ignore[index]
    statuses: list[int] = []

    def attempt(number: int) -> None:
        body = {**BOB, "email": f"u{number}@example.test", "invite": code}
        statuses.append(http.post("/v1/auth/register", json=body).status_code)

    at_once(3, attempt)
    assert sorted(statuses) == [201, 403, 403]
    old = http.post("/v1/invites", headers=admin).json["code"]  # type: ignore[index]
    with services.database.begin() as connection:
        connection.execute(text("update invites set expires_at = now() - interval '1 second'"))
    assert register(http, {**BOB, "invite": old}, 403)["code"] == "invite_invalid"


def test_only_an_admin_invites(ada: Person) -> None:
    assert ada.post("/v1/invites", status=403)["code"] == "forbidden"


# ---- login ----------------------------------------------------------------------------------------------------


def test_login_gives_a_session_and_the_password_is_stored_as_argon2id(http: FlaskClient, services: Services) -> None:
    register(http, ADA)
    session = login(http, ADA)
    assert (session["token_type"], session["expires_in"]) == ("Bearer", services.settings.access_token_ttl)
    answer = me(http, session["access_token"])
    assert answer.json is not None
    assert answer.json["email"] == ADA["email"]
    with services.database.begin() as connection:
        stored = connection.execute(select(User.password_hash)).scalar_one()
    assert stored.startswith("$argon2id$")


def test_unknown_address_and_wrong_password_have_one_answer_after_the_same_time(http: FlaskClient) -> None:
    register(http, ADA)
    wrong = {**ADA, "password": "wrong"}
    cases = {"wrong": wrong, "unknown": {**wrong, "email": "nobody@example.test"}, "odd": {**wrong, "email": "\0"}}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    answers = []
    for _ in range(5):
        for name, body in cases.items():
            begun = time.perf_counter()
            answers.append(login(http, body, 401))
            taken[name].append(time.perf_counter() - begun)
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["code"] == "login_failed"
    fastest, slowest = (f([statistics.median(times) for times in taken.values()]) for f in (min, max))
    # A hash takes tens of milliseconds, all else a few: without one it would be less than a third.
    assert fastest > slowest / 3, taken


def test_a_hash_of_other_parameters_is_renewed_at_login(http: FlaskClient, services: Services) -> None:
    register(http, ADA)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(ADA["password"])
    with services.database.begin() as connection:
        connection.execute(update(User).values(password_hash=weak))
    login(http, ADA)
    with services.database.begin() as connection:
        renewed = connection.execute(select(User.password_hash)).scalar_one()
    assert renewed != weak
    assert not passwords.is_outdated(renewed)
    login(http, ADA)


@pytest.mark.parametrize("more_settings", [{"auth_rate_limit": "4/minute"}])
@pytest.mark.parametrize("with_redis", [True, False])
def test_attempts_are_limited_by_address_whether_redis_is_there_or_not(
    http: FlaskClient, more_settings: dict[str, Any], with_redis: bool, redis_server: Any
) -> None:
    if not with_redis:
        redis_server.stop()
    try:
        statuses: list[int] = []
        for path in ("login", "refresh", "register", "login", "login", "refresh"):
            # Nobody's proxy is believed: a header of the client makes no other address.
            headers = {"X-Forwarded-For": f"10.0.0.{len(statuses)}"}
            answer = http.post(f"/v1/auth/{path}", json={}, headers=headers)
            statuses.append(answer.status_code)
        assert statuses == [422, 401, 422, 422, 429, 429]
        assert answer.json is not None
        assert answer.json["code"] == "rate_limited"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        elsewhere = http.post("/v1/auth/login", json={}, environ_base={"REMOTE_ADDR": "10.9.9.9"})
        assert elsewhere.status_code == 422
    finally:
        if not with_redis:
            redis_server.start()


# ---- access tokens --------------------------------------------------------------------------------------------


def test_access_tokens_follow_the_key_ring(services: Services) -> None:
    from dataclasses import replace

    user = UUID(int=5)
    old, new, other = "o" * 40, "n" * 40, "x" * 40
    signed_by_old = access.issue(replace(services, keys=KeyRing((old,))), user)
    rotated = replace(services, keys=KeyRing((new, old)))
    assert authenticate_bearer(rotated, signed_by_old) == user
    signed_by_new = access.issue(rotated, user)
    assert authenticate_bearer(replace(services, keys=KeyRing((new,))), signed_by_new) == user
    for ring in ((new,), (other,)):
        with pytest.raises(UnauthenticatedError):
            authenticate_bearer(replace(services, keys=KeyRing(ring)), signed_by_old)


def test_forged_and_expired_access_tokens_are_refused(services: Services) -> None:
    user, now = str(UUID(int=5)), int(time.time())
    good = access.issue(services, UUID(user))
    kid = jwt.get_unverified_header(good)["kid"]
    key = services.keys.signing_keys("access-token")[0]
    claims = {"sub": user, "exp": now + 100}
    head = {"kid": kid}
    forged = {
        "unsigned": jwt.encode(claims, "", algorithm="none", headers=head),
        "other key": jwt.encode(claims, b"k" * 32, algorithm="HS256", headers=head),
        "no key id": jwt.encode(claims, key, algorithm="HS256"),
        "other algorithm": jwt.encode(claims, key * 2, algorithm="HS512", headers=head),
        "no expiry": jwt.encode({"sub": user}, key, algorithm="HS256", headers=head),
        "no user": jwt.encode({"exp": now + 100}, key, algorithm="HS256", headers=head),
        "odd user": jwt.encode({**claims, "sub": "x"}, key, algorithm="HS256", headers=head),
        "odd key id": jwt.encode(claims, key, algorithm="HS256", headers={"kid": "zzz"}),
        "other purpose": jwt.encode(claims, services.keys.signing_keys("other")[0], algorithm="HS256", headers=head),
    }
    for why, token in forged.items():
        with pytest.raises(UnauthenticatedError) as caught:
            authenticate_bearer(services, token)
        assert caught.value.code == "token_invalid", why
    expired = jwt.encode({**claims, "exp": now - 1}, key, algorithm="HS256", headers=head)
    with pytest.raises(UnauthenticatedError) as caught:
        authenticate_bearer(services, expired)
    assert caught.value.code == "token_expired"


def test_an_access_token_of_a_user_who_is_gone_starts_nothing(ada: Person, services: Services) -> None:
    with services.database.begin() as connection:
        connection.execute(text("delete from users"))
    ada.get("/v1/me", 401)
    body = {"repo_url": "https://example.com/r", "prompt": "p"}
    assert ada.post("/v1/tasks", body, 401)["code"] == "unauthenticated"
    assert ada.post("/v1/tasks", body, 401, headers={"Idempotency-Key": "k"})["code"] == "unauthenticated"
    assert ada.post("/v1/tokens", {"name": "n"}, 401)["code"] == "unauthenticated"


# ---- refresh tokens -------------------------------------------------------------------------------------------


def test_each_refresh_token_is_good_once(http: FlaskClient, services: Services) -> None:
    register(http, ADA)
    session = login(http, ADA)
    seen = {session["refresh_token"]}
    for _ in range(3):
        session = refresh(http, session["refresh_token"])
        assert session["refresh_token"] not in seen
        seen.add(session["refresh_token"])
        assert me(http, session["access_token"]).status_code == 200
    with services.database.begin() as connection:
        stored = connection.execute(select(RefreshToken.token_hash)).scalars().all()
    assert not seen & set(stored)


def test_a_used_token_that_comes_back_ends_the_session_and_no_other(http: FlaskClient) -> None:
    register(http, ADA)
    stolen, other = login(http, ADA)["refresh_token"], login(http, ADA)["refresh_token"]
    fresh = refresh(http, stolen)["refresh_token"]
    assert refresh(http, stolen, 401)["code"] == "refresh_token_reused"
    assert refresh(http, fresh, 401)["code"] == "refresh_token_invalid"
    refresh(http, other)


def test_of_two_uses_at_the_same_time_at_most_one_wins_and_the_session_ends(http: FlaskClient) -> None:
    register(http, ADA)
    token = login(http, ADA)["refresh_token"]
    answers: list[TestResponse] = []
    at_once(4, lambda _: answers.append(http.post("/v1/auth/refresh", json={"refresh_token": token})))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
    (won,) = (answer.json for answer in answers if answer.status_code == 200)
    assert won is not None
    refresh(http, won["refresh_token"], 401)


def test_a_token_that_was_made_while_its_family_was_revoked_is_worth_nothing(
    http: FlaskClient, services: Services
) -> None:
    register(http, ADA)
    stolen = login(http, ADA)["refresh_token"]
    fresh = refresh(http, stolen)["refresh_token"]
    refresh(http, stolen, 401)
    with services.database.begin() as connection:
        # As when the refresh that made it commits after the revocation had looked for all tokens of the family.
        made = update(RefreshToken).where(RefreshToken.token_hash == fingerprint(fresh)).values(revoked_at=None)
        assert connection.execute(made).rowcount == 1
    assert refresh(http, fresh, 401)["code"] == "refresh_token_invalid"


def test_expired_and_made_up_refresh_tokens(http: FlaskClient, services: Services) -> None:
    register(http, ADA)
    token = login(http, ADA)["refresh_token"]
    with services.database.begin() as connection:
        connection.execute(text("update refresh_tokens set expires_at = now() - interval '1 second'"))
    for wrong in (token, "made up"):
        assert refresh(http, wrong, 401)["code"] == "refresh_token_invalid"
    assert http.post("/v1/auth/refresh", json={}).status_code == 401


def test_logout_ends_the_session(http: FlaskClient) -> None:
    register(http, ADA)
    session, other = login(http, ADA), login(http, ADA)
    answer = http.post("/v1/auth/logout", json={"refresh_token": session["refresh_token"]})
    assert answer.status_code == 204
    refresh(http, session["refresh_token"], 401)
    refresh(http, other["refresh_token"])
    assert http.post("/v1/auth/logout", json={"refresh_token": "made up"}).status_code == 204
    assert http.post("/v1/auth/logout").status_code == 204


# ---- API tokens -----------------------------------------------------------------------------------------------


def test_an_api_token_is_shown_once_and_stored_as_a_hash(ada: Person, http: FlaskClient, services: Services) -> None:
    made = ada.post("/v1/tokens", {"name": "laptop"}, 201)
    assert made["token"].startswith("fh_")
    assert made["expires_at"] is None
    (listed,) = ada.get("/v1/tokens")["items"]
    assert listed == {name: value for name, value in made.items() if name != "token"}
    answer = me(http, made["token"])
    assert answer.json is not None
    assert answer.json["id"] == str(ada.id)
    with services.database.begin() as connection:
        stored = connection.execute(select(ApiToken.token_hash)).scalar_one()
    assert stored not in made["token"]
    assert made["token"] not in stored


def test_an_api_token_is_worthless_once_it_is_deleted_or_expired(
    ada: Person, http: FlaskClient, services: Services
) -> None:
    made = ada.post("/v1/tokens", {"name": "a"}, 201)
    assert ada("DELETE", f"/v1/tokens/{made['id']}").status_code == 204
    assert ada("DELETE", f"/v1/tokens/{made['id']}").status_code == 404
    assert me(http, made["token"]).status_code == 401
    short = ada.post("/v1/tokens", {"name": "a", "expires_in_days": 1}, 201)
    assert short["expires_at"] > short["created_at"]
    assert me(http, short["token"]).status_code == 200
    with services.database.begin() as connection:
        connection.execute(text("update api_tokens set expires_at = now() - interval '1 second'"))
    assert me(http, short["token"]).status_code == 401


def test_the_last_use_of_a_token_is_noted_once_a_minute(ada: Person, http: FlaskClient, services: Services) -> None:
    made = ada.post("/v1/tokens", {"name": "a"}, 201)

    def last_used() -> Any:
        me(http, made["token"])
        return ada.get("/v1/tokens")["items"][0]["last_used_at"]

    first = last_used()
    assert first is not None
    assert last_used() == first
    with services.database.begin() as connection:
        connection.execute(text("update api_tokens set last_used_at = now() - interval '61 seconds'"))
    assert last_used() > first


def test_tokens_are_listed_in_pages(ada: Person) -> None:
    made = [ada.post("/v1/tokens", {"name": str(n)}, 201)["id"] for n in range(3)]
    first = ada.get("/v1/tokens?limit=2")
    second = ada.get(f"/v1/tokens?limit=2&cursor={first['next']}")
    assert [item["id"] for item in first["items"] + second["items"]] == made[::-1]


def test_a_ticket_is_good_once(ada: Person, services: Services) -> None:
    ticket = ada.post("/v1/stream-tickets", status=201)
    assert ticket["expires_in"] == 30
    assert services.bus.redeem_ticket(ticket["ticket"]) == ada.id
    assert services.bus.redeem_ticket(ticket["ticket"]) is None
