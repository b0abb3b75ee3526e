"""The OpenAPI document: valid, complete, and true to what the routes take."""

from __future__ import annotations

import re
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import ALWAYS, REST


def document(http: FlaskClient) -> dict[str, Any]:
    answer = http.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json  # type: ignore[assignment]
    return found


def test_the_document_is_valid_openapi_3_1(http: FlaskClient) -> None:
    found = document(http)
    assert found["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(found).iter_errors()) == []


def test_it_names_every_route_of_the_application(http: FlaskClient, app: Flask) -> None:
    paths = document(http)["paths"]
    documented = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    served = {
        (method, re.sub(r"<uuid:(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served - documented == {("GET", "/openapi.json"), ("GET", "/docs")}
    assert documented <= served


def test_it_says_what_each_operation_takes_and_answers(http: FlaskClient) -> None:
    found = document(http)
    start = found["paths"]["/v1/tasks"]["post"]
    assert start["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/StartTask")
    assert start["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("/Task")
    assert {p["name"] for p in start["parameters"]} == {"Idempotency-Key"}
    schema = found["components"]["schemas"]["StartTask"]
    assert schema["required"] == ["prompt"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["prompt"]["maxLength"] == 100_000
    events = found["paths"]["/v1/tasks/{task_id}/events"]["get"]
    assert {p["name"]: p["in"] for p in events["parameters"]} == {"task_id": "path", "after": "query", "limit": "query"}
    assert "security" not in start
    assert found["paths"]["/v1/auth/login"]["post"]["security"] == []
    assert "text/x-diff" in found["paths"]["/v1/tasks/{task_id}/diff"]["get"]["responses"]["200"]["content"]
    assert all(o["summary"] and o["operationId"] for path in found["paths"].values() for o in path.values())


def test_operations_have_names_of_their_own() -> None:
    names = [operation.name for operation in ALWAYS + REST]
    assert len(names) == len(set(names))


def test_the_page_lists_every_operation_and_runs_no_script(http: FlaskClient) -> None:
    answer = http.get("/docs")
    assert answer.mimetype == "text/html"
    assert all(re.sub(r"<uuid:(\w+)>", r"{\1}", operation.path) in answer.text for operation in ALWAYS + REST)
    assert "<script" not in answer.text
    assert "script-src" not in answer.headers["Content-Security-Policy"]
