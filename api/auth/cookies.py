"""The session of a browser: cookies, and what keeps other sites from using them.

    farhand_access    httpOnly, SameSite=Lax      the access token
    farhand_refresh   httpOnly, SameSite=Strict   the refresh token, sent to /v1/auth only
    farhand_csrf      readable, SameSite=Strict   to be repeated in the header X-CSRF-Token (double submit)

A request that changes something and is authenticated by a cookie needs that header and an `Origin` of ours.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Request, Response

from api.auth.sessions import Session
from infra.crypto import same
from infra.errors import ForbiddenError
from infra.settings import Settings

ACCESS = "farhand_access"
REFRESH = "farhand_refresh"
CSRF = "farhand_csrf"
CSRF_HEADER = "X-CSRF-Token"
REFRESH_PATH = "/v1/auth"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def set_session(response: Response, settings: Settings, request: Request, session: Session, csrf: str) -> None:
    """Give the browser its session. Each one has a CSRF token of its own."""
    secure = is_https(settings, request)
    response.set_cookie(
        ACCESS,
        session.access_token,
        max_age=settings.access_token_ttl,
        secure=secure,
        httponly=True,
        samesite="Lax",
    )
    response.set_cookie(
        REFRESH,
        session.refresh_token,
        max_age=settings.refresh_token_ttl,
        path=REFRESH_PATH,
        secure=secure,
        httponly=True,
        samesite="Strict",
    )
    response.set_cookie(CSRF, csrf, max_age=settings.refresh_token_ttl, secure=secure, samesite="Strict")


def clear_session(response: Response) -> None:
    response.delete_cookie(ACCESS)
    response.delete_cookie(REFRESH, path=REFRESH_PATH)
    response.delete_cookie(CSRF)


def is_https(settings: Settings, request: Request) -> bool:
    return settings.public_url.startswith("https:") or request.is_secure


def origin_is_ours(settings: Settings, request: Request) -> bool:
    """Whether the page that sent the request is served by this deployment. False without an Origin header.

    With FARHAND_PUBLIC_URL the whole origin is compared, without it host and port: a proxy in front may speak TLS.
    """
    origin = request.headers.get("Origin", "")
    if settings.public_url:
        return origin == settings.public_url.rstrip("/")
    try:
        return bool(origin) and urlsplit(origin).netloc == request.host
    except ValueError:  # such as a bracket that is never closed
        return False


def check_forgery(settings: Settings, request: Request) -> None:
    """For a request that is authenticated by a cookie. Raises ForbiddenError (`origin_refused`, `csrf_refused`)."""
    if request.method in _SAFE_METHODS:
        return
    if not origin_is_ours(settings, request):
        raise ForbiddenError(
            "the request does not come from a page of this deployment",
            hint="Browsers send the Origin header; other clients use `Authorization: Bearer …`. "
            "The operator sets FARHAND_PUBLIC_URL to the address that browsers use.",
            code="origin_refused",
        )
    cookie = request.cookies.get(CSRF, "")
    if not cookie or not same(cookie, request.headers.get(CSRF_HEADER, "")):
        raise ForbiddenError(
            "the CSRF token is missing or wrong",
            hint=f"Repeat the value of the cookie {CSRF} in the header {CSRF_HEADER}.",
            code="csrf_refused",
        )
