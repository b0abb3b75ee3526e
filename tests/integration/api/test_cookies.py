"""The session of a browser: which cookies it gets, and that no other site can use them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.integration.api.conftest import REPO
from tests.integration.api.test_auth import ADA, register

ORIGIN = "http://localhost"
TASK = {"repo_url": REPO, "prompt": "p"}


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    """A browser in which Ada has logged in."""
    client = app.test_client()
    register(client, ADA)
    log_in(client)
    return client


def log_in(client: FlaskClient, **more: Any) -> TestResponse:
    answer = client.post("/v1/auth/login", json=ADA, headers={"X-Farhand-Cookies": "1"}, **more)
    assert answer.status_code == 200, answer.text
    return answer


def value(client: FlaskClient, name: str, path: str = "/") -> str:
    cookie = client.get_cookie(name, path=path)
    assert cookie is not None
    return cookie.value


def guarded(client: FlaskClient, **more: str) -> dict[str, str]:
    return {"Origin": ORIGIN, "X-CSRF-Token": value(client, "farhand_csrf"), **more}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_login_sets_cookies_when_the_browser_asks(app: Flask, scheme: str) -> None:
    client = app.test_client()
    register(client, ADA)
    assert "Set-Cookie" not in client.post("/v1/auth/login", json=ADA).headers
    answer = client.post("/v1/auth/login", json={**ADA, "cookies": True}, base_url=f"{scheme}://localhost")
    cookies = {line.partition("=")[0]: line.split("; ")[1:] for line in answer.headers.getlist("Set-Cookie")}
    assert set(cookies) == {"farhand_access", "farhand_refresh", "farhand_csrf"}
    assert all(("Secure" in parts) == (scheme == "https") for parts in cookies.values())
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookies["farhand_access"])
    assert {"HttpOnly", "SameSite=Strict", "Path=/v1/auth"} <= set(cookies["farhand_refresh"])
    assert "HttpOnly" not in cookies["farhand_csrf"]
    assert answer.json is not None
    assert answer.json["csrf_token"] == value(client, "farhand_csrf")


def test_a_cookie_reads_without_more_and_acts_with_the_token_and_our_origin(browser: FlaskClient) -> None:
    assert browser.get("/v1/me").status_code == 200
    assert browser.post("/v1/tasks", json=TASK, headers=guarded(browser)).status_code == 202


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": ""}, "origin_refused"),
        ({"Origin": "null"}, "origin_refused"),
        ({"Origin": "http://evil.example"}, "origin_refused"),
        ({"Origin": "http://localhost.evil.example"}, "origin_refused"),
        ({"Origin": "http://localhost:8000"}, "origin_refused"),
        ({"X-CSRF-Token": ""}, "csrf_refused"),
        ({"X-CSRF-Token": "made up"}, "csrf_refused"),
        ({"X-CSRF-Token": "é"}, "csrf_refused"),
    ],
)
def test_another_site_can_do_nothing_with_the_cookie(browser: FlaskClient, headers: dict[str, str], code: str) -> None:
    sent = {name: text for name, text in guarded(browser, **headers).items() if text}
    for method, path in (("POST", "/v1/tasks"), ("DELETE", f"/v1/tasks/{UUID(int=0)}"), ("POST", "/v1/auth/refresh")):
        answer = browser.open(path, method=method, json=TASK if path == "/v1/tasks" else {}, headers=sent)
        assert (answer.status_code, answer.json and answer.json["code"]) == (403, code), path
    assert browser.get("/v1/tasks").json == {"items": [], "next": None}


def test_a_token_in_a_header_needs_no_guard_and_goes_before_the_cookie(browser: FlaskClient) -> None:
    answer = browser.post("/v1/tasks", json=TASK, headers={**guarded(browser), "Authorization": "Bearer fh_x"})
    assert answer.status_code == 401
    token = value(browser, "farhand_access")
    assert browser.post("/v1/tasks", json=TASK, headers={"Authorization": f"Bearer {token}"}).status_code == 202


def test_a_browser_refreshes_by_cookie_and_sees_no_token(browser: FlaskClient) -> None:
    before = value(browser, "farhand_refresh", "/v1/auth")
    answer = browser.post("/v1/auth/refresh", headers=guarded(browser))
    assert answer.status_code == 200, answer.text
    assert value(browser, "farhand_refresh", "/v1/auth") != before
    assert answer.json is not None
    assert set(answer.json) == {"token_type", "expires_in", "csrf_token"}
    assert browser.post("/v1/tasks", json=TASK, headers=guarded(browser)).status_code == 202


def test_logout_takes_the_cookies_away_and_ends_the_session(browser: FlaskClient) -> None:
    token = value(browser, "farhand_refresh", "/v1/auth")
    assert browser.post("/v1/auth/logout").status_code == 403
    assert browser.post("/v1/auth/logout", headers=guarded(browser)).status_code == 204
    for name, path in (("farhand_access", "/"), ("farhand_refresh", "/v1/auth"), ("farhand_csrf", "/")):
        assert browser.get_cookie(name, path=path) is None
    assert browser.get("/v1/me").status_code == 401
    assert browser.post("/v1/auth/refresh", json={"refresh_token": token}).status_code == 401


def test_a_cookie_that_expired_or_was_made_up(browser: FlaskClient) -> None:
    browser.set_cookie("farhand_access", "made up")
    answer = browser.get("/v1/me")
    assert (answer.status_code, answer.json and answer.json["code"]) == (401, "token_invalid")


@pytest.mark.parametrize("more_settings", [{"public_url": "https://farhand.example/"}])
def test_behind_a_proxy_the_public_address_counts(browser: FlaskClient, more_settings: dict[str, Any]) -> None:
    answer = log_in(browser)
    assert all("Secure" in line for line in answer.headers.getlist("Set-Cookie"))
    assert answer.headers["Strict-Transport-Security"]
    https = {"base_url": "https://localhost"}  # the client holds Secure cookies back from plain http
    csrf = {"X-CSRF-Token": value(browser, "farhand_csrf")}
    ours = browser.post("/v1/tasks", json=TASK, headers={**csrf, "Origin": "https://farhand.example"}, **https)
    assert ours.status_code == 202
    theirs = browser.post("/v1/tasks", json=TASK, headers={**csrf, "Origin": "https://localhost"}, **https)
    assert theirs.status_code == 403
