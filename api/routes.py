"""A thin layer over Flask: what a route takes is read from its signature, and the same facts make the OpenAPI document.

    routes = Routes("tasks")

    @routes.post("/v1/tasks", answer=answers.Task, status=202, idempotent=True)
    def start(call: Call, body: StartTask) -> Reply: …

A handler's first argument is the `Call`; `body` and `query` are pydantic models; every other one is a part of the
path. It returns JSON (a dict), a `Reply`, or a Flask response, and raises errors, which `api.problems` turns into
answers. A schema for the answer is documentation: handlers build plain dicts, and a test holds these to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints
from uuid import UUID

from flask import Flask, Response, json, request
from pydantic import BaseModel
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from api.auth.identity import authenticate_request
from api.idempotency import Key
from api.limits import AttemptLimit
from api.problems import MAX_BODY_BYTES
from infra.services import Services

Json = dict[str, Any]
_EMPTY_OBJECT = b"{}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a user (or of anybody, on a public route)."""

    services: Services
    user: UUID | None

    @property
    def user_id(self) -> UUID:
        if self.user is None:
            raise RuntimeError("a public route asked for its user")
        return self.user

    @property
    def key(self) -> str | None:
        """The client's idempotency key."""
        return request.headers.get("Idempotency-Key")

    def key_of(self, operation: str, asked: Json) -> Key | None:
        """The same, as the key of `operation` with what it asks for. Raises InvalidInputError."""
        return None if self.key is None else Key.of(self.user_id, operation, self.key, asked)


@dataclass(frozen=True, slots=True)
class Reply:
    """JSON with headers of its own; None is an answer without a body."""

    body: Json | None
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def once(cls, body: Json, *, replayed: bool) -> Reply:
        """The answer to a request with an idempotency key, which says whether an earlier one did what it asks."""
        return cls(body, {"Idempotency-Replayed": "true"} if replayed else {})


Handler = Callable[..., Json | Reply | Response]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Operation:
    """A route and all that the OpenAPI document says about it."""

    method: str
    path: str
    handler: Handler
    tag: str
    answer: type[BaseModel] | None
    status: int
    public: bool
    limited: bool
    idempotent: bool
    media_types: tuple[str, ...]
    body: type[BaseModel] | None
    query: type[BaseModel] | None

    @property
    def name(self) -> str:
        return self.handler.__name__


class Routes:
    """The operations of one part of the API."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.operations: list[Operation] = []

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def get(self, path: str, **facts: Any) -> Callable[[H], H]:
        return self._add("GET", path, **facts)

    def post(self, path: str, **facts: Any) -> Callable[[H], H]:
        return self._add("POST", path, **facts)

    def patch(self, path: str, **facts: Any) -> Callable[[H], H]:
        return self._add("PATCH", path, **facts)

    def delete(self, path: str, **facts: Any) -> Callable[[H], H]:
        return self._add("DELETE", path, **{"status": 204, **facts})

    def _add(
        self,
        method: str,
        path: str,
        *,
        answer: type[BaseModel] | None = None,
        status: int = 200,
        public: bool = False,
        limited: bool = False,
        idempotent: bool = False,
        media_types: tuple[str, ...] = ("application/json",),
    ) -> Callable[[H], H]:
        """`public`: without a user. `limited`: by address, as attempts to log in. `idempotent`: takes a key."""

        def register(handler: H) -> H:
            hints = get_type_hints(handler)
            operation = Operation(
                method=method,
                path=path,
                handler=handler,
                tag=self.tag,
                answer=answer,
                status=status,
                public=public,
                limited=limited,
                idempotent=idempotent,
                media_types=media_types,
                body=hints.get("body"),
                query=hints.get("query"),
            )
            if next(iter(inspect.signature(handler).parameters)) != "call":
                raise TypeError(f"{handler.__name__}: the first argument of a handler is its call")
            self.operations.append(operation)
            return handler

        return register


def install(app: Flask, services: Services, operations: Sequence[Operation]) -> None:
    attempts = AttemptLimit(services)
    for operation in operations:
        app.add_url_rule(
            operation.path,
            endpoint=f"{operation.tag}.{operation.name}",
            view_func=_view(operation, services, attempts),
            methods=[operation.method],
        )


def _view(operation: Operation, services: Services, attempts: AttemptLimit) -> Callable[..., Response]:
    def view(**path: Any) -> Response:
        if operation.limited:
            attempts.count(request.remote_addr or "")
        user = None if operation.public else authenticate_request(services)
        if operation.body is not None:
            path["body"] = operation.body.model_validate_json(_json_body())
        if operation.query is not None:
            path["query"] = operation.query.model_validate_strings(request.args.to_dict())
        return _response(operation.status, operation.handler(Call(services, user), **path))

    return view


def _json_body() -> bytes:
    """The body; a request without one stands for `{}`, so that `POST …/cancel` needs none."""
    data = request.get_data(cache=False)
    if len(data) >= MAX_BODY_BYTES and request.content_length is None:
        # A chunked body has no length to judge beforehand: werkzeug stops reading at the limit and says nothing.
        raise RequestEntityTooLarge
    if not data:
        return _EMPTY_OBJECT
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("the body must be JSON")
    return data


def _response(status: int, result: Json | Reply | Response) -> Response:
    if isinstance(result, Response):
        return result
    body, headers = (result.body, result.headers) if isinstance(result, Reply) else (result, None)
    if body is None:
        return Response(status=status, headers=headers)
    return Response(json.dumps(body), status, headers, content_type="application/json")


def current_route() -> str:
    """The rule that the request matched, for metrics and logs: never the path, which anybody can make up."""
    return request.url_rule.rule if request.url_rule else "(none)"
