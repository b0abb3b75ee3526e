"""Headers of every answer: a request id, and what keeps a browser from doing more with it than it should."""

from __future__ import annotations

import re

from flask import Flask, Response, g, request

from api.auth.cookies import is_https
from infra.ids import new_id
from infra.settings import Settings

REQUEST_ID = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def register(app: Flask, settings: Settings) -> None:
    @app.before_request
    def name_request() -> None:
        given = request.headers.get(REQUEST_ID, "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else str(new_id())

    @app.after_request
    def add(response: Response) -> Response:
        headers = response.headers
        headers[REQUEST_ID] = g.request_id
        for name, value in _SECURITY.items():
            if name not in headers:
                headers[name] = value
        if is_https(settings, request):
            headers["Strict-Transport-Security"] = "max-age=31536000"
        return response
