"""The OpenAPI 3.1 document, made of the routes and their pydantic models, and a page that lists the operations."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from flask import Flask, Response, json
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.auth import cookies
from api.problems import MEDIA_TYPE, Problem
from api.routes import Json, Operation

_PATH_PART = re.compile(r"<(?:(\w+):)?(\w+)>")
_JSON = "application/json"
_REF = "#/components/schemas/{model}"
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def register(app: Flask, operations: Sequence[Operation]) -> None:
    @cache
    def document_bytes() -> str:
        return json.dumps(document(operations))

    @app.get("/openapi.json")
    def openapi_document() -> Response:
        return Response(document_bytes(), content_type=_JSON)

    @app.get("/docs")
    def docs() -> Response:
        return Response(_page(operations), headers=_PAGE_HEADERS, content_type="text/html; charset=utf-8")


def document(operations: Sequence[Operation]) -> Json:
    models = {model: None for o in operations for model in (o.body, o.answer, o.query) if model} | {Problem: None}
    refs, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas = {model: refs[(model, "validation")] for model in models}
    queries = {schema["$ref"].rpartition("/")[2] for model, schema in schemas.items() if _is_query(model, operations)}
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(_template(operation.path), {})[operation.method.lower()] = _operation(
            operation, schemas, definitions
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Farhand",
            "version": "1",
            "description": "Send a coding task; watch sandboxed agents do it. The live stream is at /v1/stream.",
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in definitions["$defs"].items() if name not in queries},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API token or an access token."},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookies.ACCESS},
            },
        },
        "security": [{"bearer": []}, {"cookie": []}],
    }


def _is_query(model: type[BaseModel], operations: Sequence[Operation]) -> bool:
    return any(operation.query is model for operation in operations)


def _operation(operation: Operation, schemas: dict[Any, Json], definitions: Json) -> Json:
    doc = inspect.getdoc(operation.handler) or ""
    answered: Json = {"description": "Done."}
    if operation.media_types != (_JSON,):
        answered["content"] = {kind: {} for kind in operation.media_types}
    if operation.answer is not None:
        answered.setdefault("content", {})[_JSON] = {"schema": schemas[operation.answer]}
    found: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": doc.partition(".")[0],
        "description": doc,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, schemas, definitions)],
        "responses": {
            str(operation.status): answered,
            "default": {"description": "An error.", "content": {MEDIA_TYPE: {"schema": schemas[Problem]}}},
        },
    }
    if operation.idempotent:
        found["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200},
                "description": "A repeat with the same key is done once and told the same answer.",
            }
        )
    if operation.body is not None:
        required = any(field.is_required() for field in operation.body.model_fields.values())
        found["requestBody"] = {"required": required, "content": {_JSON: {"schema": schemas[operation.body]}}}
    if operation.public:
        found["security"] = []
    return found


def _template(path: str) -> str:
    return _PATH_PART.sub(r"{\2}", path)


def _path_parameters(operation: Operation) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", **({"format": "uuid"} if kind == "uuid" else {})},
        }
        for kind, name in _PATH_PART.findall(operation.path)
    ]


def _query_parameters(operation: Operation, schemas: dict[Any, Json], definitions: Json) -> list[Json]:
    if operation.query is None:
        return []
    schema = definitions["$defs"][schemas[operation.query]["$ref"].rpartition("/")[2]]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def _page(operations: Sequence[Operation]) -> str:
    rows = "".join(
        f"<tr><td>{o.method}</td><td><code>{html.escape(_template(o.path))}</code></td>"
        f"<td>{html.escape(inspect.getdoc(o.handler) or '')}</td></tr>"
        for o in operations
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Farhand API</title>"
        "<meta name=viewport content='width=device-width'>"
        "<style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "td{padding:.3rem .8rem .3rem 0;vertical-align:top;border-top:1px solid #ccc}</style>"
        "<h1>Farhand API</h1><p>The whole of it, with every field: <a href='/openapi.json'>/openapi.json</a> "
        f"(OpenAPI 3.1).</p><table>{rows}</table></html>"
    )
