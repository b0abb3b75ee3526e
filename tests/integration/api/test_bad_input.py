"""Whatever a client sends, it is refused with a 4xx, a stable code, a message and a hint; never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from infra.services import Services
from tests.integration.api.conftest import REPO, Person

TASK: dict[str, Any] = {"repo_url": REPO, "prompt": "p"}
LONG = "a" * 100_001
NOT_TEXT: list[Any] = [None, 5, True, [], {}, ["a"]]


def refused(answer: TestResponse, status: int, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    problem: dict[str, Any] = answer.json  # type: ignore[assignment]
    assert problem["detail"]
    assert problem["hint"]
    assert len(answer.get_data()) < 3000
    if code:
        assert problem["code"] == code, problem
    return problem


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", [*NOT_TEXT, "", " \n", LONG, "a\0b", "a\x1bb", "a\x7f", "a\x85", "a\r\nb"]),
        ("repo_url", [5, True, [], "", "a" * 2001]),
        ("project_id", [5, "", "x", "../x", "0" * 31]),
        (
            "base_branch",
            [
                *[5, [], "", "a" * 201, "--upload-pack=touch /tmp/x", "-b", "a..b", "a b", "a~1", "a^", "a:b", "a?"],
                *["a*", "a[", "a\\b", "/a", "a/", "a//b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "@", "a@{1}"],
                *["a\nb", "a\0", "refs/heads/main", "a\x7f"],
            ],
        ),
        ("budget_usd", [0, -1, "5", True, [], 1e-7, 1.0000001, 10**12]),
        ("model", [5, [], "", "a" * 201, "a\nb", "a\0"]),
        ("agent", [5, [], "", "a\0", "a" * 101]),
        ("surprise", ["x"]),
    ],
)
def test_a_field_of_a_task_that_is_not_what_it_should_be(ada: Person, field: str, values: list[Any]) -> None:
    for value in values:
        problem = refused(ada("POST", "/v1/tasks", {**TASK, field: value}), 422, "invalid_input")
        assert {error["field"] for error in problem["errors"]} == {field}, (value, problem)
    assert ada.get("/v1/tasks")["items"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "p"}, "invalid_input"),
        ({"repo_url": REPO}, "invalid_input"),
        ({**TASK, "project_id": "01a00000-0000-7000-8000-000000000000"}, "invalid_input"),
        ({**TASK, "model": "gpt-nonsense"}, "unknown_model"),
        ({**TASK, "model": "replay:../demo"}, "unknown_recording"),
        ({**TASK, "model": "replay:/etc/passwd"}, "unknown_recording"),
        ({**TASK, "model": "replay:"}, "unknown_recording"),
        ({**TASK, "model": "replay:absent"}, "unknown_recording"),
        ({**TASK, "model": "--help"}, "unknown_model"),
        ({**TASK, "agent": "painter"}, "unknown_agent"),
        ({**TASK, "budget_usd": 100.01}, "budget_too_large"),
        ({**TASK, "repo_url": "file:///etc"}, "repo_scheme_refused"),
        ({**TASK, "repo_url": "http://example.com/r"}, "repo_scheme_refused"),
        ({**TASK, "repo_url": "ssh://git@example.com/r"}, "repo_url_has_credentials"),
        ({**TASK, "repo_url": "git@example.com:owner/name"}, "repo_scheme_refused"),
        ({**TASK, "repo_url": "ext::sh -c touch /tmp/x"}, "repo_url_invalid"),
        ({**TASK, "repo_url": "--upload-pack=x"}, "repo_url_invalid"),
        ({**TASK, "repo_url": "https://127.0.0.1/r"}, "repo_host_private"),
        ({**TASK, "repo_url": "https://localhost/r"}, "repo_host_private"),
        ({**TASK, "repo_url": "https://169.254.169.254/latest"}, "repo_host_private"),
        ({**TASK, "repo_url": "https://[::1]/r"}, "repo_host_private"),
        ({**TASK, "repo_url": "https://postgres/r"}, "repo_host_private"),
        ({**TASK, "repo_url": "https://example.com/a/../../b"}, "repo_url_invalid"),
        ({**TASK, "repo_url": "https://example.com/r\n"}, "repo_url_invalid"),
        ({**TASK, "repo_url": "nonsense"}, "repo_url_invalid"),
    ],
)
def test_a_task_that_makes_no_sense(ada: Person, body: dict[str, Any], code: str) -> None:
    refused(ada("POST", "/v1/tasks", body), 422, code)
    assert ada.get("/v1/tasks")["items"] == []


@pytest.mark.parametrize("more_settings", [{"model": "claude-sonnet"}])
def test_a_real_model_without_a_key(ada: Person, more_settings: dict[str, Any]) -> None:
    problem = refused(ada("POST", "/v1/tasks", TASK), 422, "model_key_missing")
    assert "FARHAND_ANTHROPIC_API_KEY" in problem["hint"]
    ada.task(model="replay:demo")


@pytest.mark.parametrize(
    "more_settings",
    [
        {"model": "claude-sonnet", "anthropic_api_key": SecretStr("sk-ant-x")},
        {"model": "claude-sonnet", "workers_have_model_key": True},
    ],
)
def test_an_alias_becomes_the_full_name(ada: Person, more_settings: dict[str, Any]) -> None:
    assert ada.task()["model"].startswith("claude-sonnet-")


def test_what_is_at_a_limit_is_taken(ada: Person) -> None:
    task = {**TASK, "prompt": "\U0001f600" * 100_000, "base_branch": "b" * 200, "budget_usd": 100}
    body = json.dumps(task, ensure_ascii=False).encode()
    answer = ada("POST", "/v1/tasks", data=body, content_type="application/json")
    assert answer.status_code == 202
    assert answer.json is not None
    assert answer.json["prompt"] == task["prompt"]


@pytest.mark.parametrize("branch", ["main", "release/1.2", "a-b_c", "feature/ü", "x@y", "v1.0", "a.b/c"])
def test_ordinary_branches_are_taken(ada: Person, branch: str) -> None:
    assert ada.task(base_branch=branch)["base_branch"] == branch


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        rb'{"prompt": "\ud800", "repo_url": "https://example.com/r"}',
        b"\xef\xbb\xbf{}",
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b'{"prompt": "p", "budget_usd": ' + b"9" * 5000 + b"}",
        b'{"prompt": "p", "repo_url": "https://example.com/r", "budget_usd": 1e400}',
        b'{"prompt": "p", "repo_url": "https://example.com/r", "budget_usd": NaN}',
        b'{"prompt": "p", "repo_url": "https://example.com/r", "budget_usd": Infinity}',
    ],
)
def test_a_body_that_is_no_json_object(ada: Person, raw: bytes) -> None:
    answer = ada("POST", "/v1/tasks", data=raw, content_type="application/json")
    assert answer.status_code in {400, 422}
    problem = refused(answer, answer.status_code)
    assert problem["code"] in {"invalid_json", "invalid_input"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_does_not_say_json(ada: Person, kind: str) -> None:
    refused(ada("POST", "/v1/tasks", data=json.dumps(TASK), content_type=kind), 415, "json_required")


def test_a_body_of_a_hundred_thousand_unknown_fields_is_not_listed(ada: Person) -> None:
    problem = refused(ada("POST", "/v1/tasks", TASK | {f"{n:x}": 1 for n in range(80_000)}), 422, "invalid_input")
    assert problem["errors"] == [{"field": "", "message": "80000 things are wrong with it: too many to name them"}]


@pytest.mark.parametrize("query", ["until=0001-01-01", "until=0001-01-29", "since=0001-01-01&until=0001-01-02"])
def test_usage_of_the_first_days_that_there_are(ada: Person, query: str) -> None:
    assert ada.get(f"/v1/usage?{query}")["items"] == []


def test_a_body_that_is_too_large(ada: Person) -> None:
    refused(ada("POST", "/v1/tasks", {**TASK, "prompt": "a" * 10_000_000}), 413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        ("messages", "text", [*NOT_TEXT, "", "  ", LONG, "a\0"]),
        ("retry", "budget_usd", ["1", 0, -1, []]),
        ("cancel", "force", [True]),
        ("answer", "text", [*NOT_TEXT, "", LONG]),
        ("answer", "question_id", [*NOT_TEXT, "", "a" * 201, "a\n"]),
    ],
)
def test_bad_fields_of_what_acts_on_a_task(ada: Person, path: str, field: str, values: list[Any]) -> None:
    task = ada.ended_task()
    good = {"messages": {"text": "t"}, "answer": {"text": "t", "question_id": "1"}}.get(path, {})
    for value in values:
        if path == "retry" and value is None:
            continue
        problem = refused(ada("POST", f"/v1/tasks/{task['id']}/{path}", {**good, field: value}), 422)
        assert problem["errors"][0]["field"] == field
    assert ada.get(f"/v1/tasks/{task['id']}") == task


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/projects", {}),
        ("/v1/projects", {"repo_url": REPO, "name": ""}),
        ("/v1/projects", {"repo_url": REPO, "name": "a\0"}),
        ("/v1/projects", {"repo_url": REPO, "name": "n" * 101}),
        ("/v1/projects", {"repo_url": REPO, "git_token": "a\r\nX-Header: b"}),
        ("/v1/projects", {"repo_url": REPO, "git_token": ""}),
        ("/v1/projects", {"repo_url": REPO, "git_token": "t" * 1001}),
        ("/v1/projects", {"repo_url": REPO, "git_username": "a\nb"}),
        ("/v1/projects", {"repo_url": REPO, "user_id": "x"}),
        ("/v1/tokens", {}),
        ("/v1/tokens", {"name": "a\0"}),
        ("/v1/tokens", {"name": "a", "expires_in_days": 0}),
        ("/v1/tokens", {"name": "a", "expires_in_days": 1.5}),
        ("/v1/tokens", {"name": "a", "expires_in_days": 10**9}),
        ("/v1/auth/register", {"email": "nobody", "password": "long enough"}),
        ("/v1/auth/register", {"email": "a@b\0.c", "password": "long enough"}),
        ("/v1/auth/register", {"email": "a" * 300 + "@b.c", "password": "long enough"}),
        ("/v1/auth/register", {"email": "a@example.com", "password": "short"}),
        ("/v1/auth/register", {"email": "a@example.com", "password": "p" * 1001}),
        ("/v1/auth/register", {"email": "a@example.com", "password": "long enough", "is_admin": True}),
        ("/v1/auth/login", {"email": ["a"], "password": "p"}),
        ("/v1/auth/login", {"email": "a@example.com", "password": "p" * 1001}),
        ("/v1/auth/refresh", {"refresh_token": 5}),
    ],
)
def test_bad_fields_of_everything_else(ada: Person, path: str, body: dict[str, Any]) -> None:
    answer = ada("POST", path, body)
    problem = refused(answer, 422, "invalid_input")
    # What was sent may be a secret: it is not repeated.
    assert "long enough" not in answer.text
    assert problem["errors"]


@pytest.mark.parametrize(
    "query",
    [
        *["limit=0", "limit=201", "limit=x", "limit=", "limit=1e3", "limit=9999999999999999999999"],
        *["cursor=x", "cursor=%00", "cursor=%C3%A9", "cursor=" + "a" * 101, "page=2", "status=done", "status=%00"],
        *["cursor=AAAA", "cursor=", "cursor=Li4uLg"],
    ],
)
def test_bad_query_of_a_list(ada: Person, query: str) -> None:
    refused(ada("GET", f"/v1/tasks?{query}"), 422)


@pytest.mark.parametrize("query", ["after=-1", "after=x", "after=99999999999999999999", "limit=1001", "cursor=1"])
def test_bad_query_of_events(ada: Person, query: str) -> None:
    refused(ada("GET", f"/v1/tasks/{ada.task()['id']}/events?{query}"), 422, "invalid_input")


@pytest.mark.parametrize("cursor", ["x", "MQ", "MS4y" * 20, "LTEuMg", "OTk5OTk5OTk5OTk5OTk5OTk5OS4x", "MS4", "Li4"])
def test_bad_cursor_of_tool_calls(ada: Person, cursor: str) -> None:
    refused(ada("GET", f"/v1/tasks/{ada.task()['id']}/tool-calls?cursor={cursor}"), 422)


@pytest.mark.parametrize(
    "path",
    ["/v1/tasks/x", "//v1/tasks", "/v1/tasks/", "/v1/tasks/../me", "/v1/tasks/%00", "/v1/tasks/1/events", "/v2", "/"],
)
def test_paths_that_are_not_there(ada: Person, path: str) -> None:
    refused(ada("GET", path), 404, "not_found")


def test_a_method_that_a_path_does_not_take(ada: Person) -> None:
    answer = ada("PUT", "/v1/tasks")
    refused(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


def test_login_refuses_what_postgres_could_not_store(http: FlaskClient, services: Services) -> None:
    refused(http.post("/v1/auth/login", json={"email": "a\0", "password": "\0"}), 401, "login_failed")
