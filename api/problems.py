"""Every error as `application/problem+json` (RFC 9457), and the one map from error classes to HTTP statuses."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, json, request
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from api.limits import RateLimitedError
from infra.errors import (
    AuthorityLostError,
    BudgetExceededError,
    ConfigurationError,
    ConflictError,
    FarhandError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    TaskFailedError,
    UnauthenticatedError,
    UnavailableError,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
MAX_BODY_BYTES = 1_000_000
_DRAINED_BYTES = 32 * 1024 * 1024
_MAX_LISTED_ERRORS = 200

# The nearest class in an error's ancestry counts.
_STATUS: dict[type[FarhandError], int] = {
    InvalidInputError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    ConfigurationError: 503,
    UnavailableError: 503,
    AuthorityLostError: 409,
    BudgetExceededError: 402,
    TaskFailedError: 409,
    RateLimitedError: 429,
    FarhandError: 500,
}

# What Flask and its libraries raise by themselves: code, detail and hint. Other statuses keep their own description.
_HTTP: dict[int, tuple[str, str | None, str]] = {
    404: ("not_found", "there is nothing at this address", "Look into /openapi.json for what there is."),
    405: ("method_not_allowed", "this address does not take that method", "The Allow header names those it takes."),
    413: ("body_too_large", "the request body is too large", f"A body has at most {MAX_BODY_BYTES} bytes."),
    415: ("json_required", None, "Send a JSON object with `Content-Type: application/json`."),
}
_OTHER = ("bad_request", None, "Send a well-formed HTTP request; /openapi.json says how.")


class FieldError(BaseModel):
    """What is wrong with one field; `field` is its path, empty for the whole body."""

    field: str
    message: str


class Problem(BaseModel):
    """An error. `code` is stable, `detail` is for a person, `hint` says what to do next."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    errors: list[FieldError] = []


class MalformedError(InvalidInputError):
    """Send one JSON object, in UTF-8."""

    code = "invalid_json"


def status_of(error: FarhandError) -> int:
    if isinstance(error, MalformedError):
        return 400
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def problem(status: int, code: str, detail: str, hint: str, *, errors: list[dict[str, str]] | None = None) -> Response:
    body: dict[str, Any] = {
        "type": f"urn:farhand:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
    }
    if errors:
        body["errors"] = errors
    return Response(json.dumps(body), status, content_type=MEDIA_TYPE)


def from_error(error: FarhandError) -> Response:
    status = status_of(error)
    detail = error.message
    if isinstance(error, UnavailableError):
        # What follows the colon is the driver's word, with addresses of ours in it: that is for the log.
        detail = detail.partition(":")[0]
    response = problem(status, error.code, detail, error.hint)
    if isinstance(error, UnavailableError):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, RateLimitedError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="farhand"'
    if status >= 500:
        log.warning("%s %s: %s", request.method, request.path, error, extra=_failed())
    return response


def field_errors(error: ValidationError) -> list[dict[str, str]]:
    """What a client is told of a validation: never the value, which may be a secret or a megabyte long."""
    if error.error_count() > _MAX_LISTED_ERRORS:
        # A body of 100,000 unknown fields: pydantic takes half a second to list them, and can't list only some.
        return [{"field": "", "message": f"{error.error_count()} things are wrong with it: too many to name them"}]
    return [
        {
            "field": ".".join(str(part)[:100] for part in item["loc"]),
            "message": item["msg"].removeprefix("Value error, "),
        }
        for item in error.errors(include_url=False, include_context=False, include_input=False)[:20]
    ]


def from_validation(error: ValidationError) -> Response:
    first, *_ = items = field_errors(error)
    if error.error_count() == 1 and error.errors(include_input=False)[0]["type"] == "json_invalid":
        return from_error(MalformedError(first["message"]))
    detail = "; ".join(f"{item['field']}: {item['message']}" if item["field"] else item["message"] for item in items)
    return problem(422, InvalidInputError.code, detail, "Correct the named fields and send it again.", errors=items)


def from_http(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        _drain()
    code, detail, hint = _HTTP.get(status, _OTHER)
    response = problem(status, code, detail or error.description or HTTPStatus(status).phrase, hint)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def from_integrity(error: IntegrityError) -> Response:
    """A row that names a user who is gone: an access token outlived its account (or its database)."""
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None) or ""
    if constraint.startswith("fk_") and constraint.endswith("_user_id"):
        return from_error(UnauthenticatedError("this account does not exist any more"))
    return from_bug(error)


def from_bug(error: Exception) -> Response:
    log.error("%s %s: %r", request.method, request.path, error, exc_info=error, extra=_failed())
    return problem(
        500,
        FarhandError.code,
        "something went wrong here, and it is not your fault",
        f"Try again; if it happens again, report it with the request id {g.request_id}.",
    )


def register(app: Flask) -> None:
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.register_error_handler(FarhandError, from_error)
    app.register_error_handler(ValidationError, from_validation)
    app.register_error_handler(HTTPException, from_http)
    app.register_error_handler(IntegrityError, from_integrity)
    app.register_error_handler(Exception, from_bug)


def _failed() -> dict[str, str]:
    return {"action": "request_failed", "request_id": g.request_id}


def _drain() -> None:
    """Read on, up to a bound, what the client still sends: a reset connection would keep the answer from it."""
    stream, left = request.environ["wsgi.input"], _DRAINED_BYTES
    left = min(left, request.content_length or left)
    while left > 0 and (piece := stream.read(min(left, 65_536))):
        left -= len(piece)
