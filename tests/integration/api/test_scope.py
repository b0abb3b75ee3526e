"""Every route asks who is there, and shows a user nothing of another one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from api.app import ALWAYS, REST
from api.routes import Operation
from infra.ids import new_id
from tests.integration.api.conftest import REPO, Person

NAMED = [operation for operation in REST if "<uuid:" in operation.path]
PRIVATE = [operation for operation in REST if not operation.public]
BODIES: dict[str, dict[str, Any]] = {
    "send_message": {"text": "t"},
    "answer_question": {"question_id": "1", "text": "t"},
    "change_project": {"name": "n"},
}


def name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def filled(operation: Operation, **ids: str) -> str:
    path = operation.path
    for key, value in ids.items():
        path = path.replace(f"<uuid:{key}>", value)
    assert "<" not in path
    return path


def test_the_public_routes_are_these() -> None:
    public = {name(operation) for operation in REST + ALWAYS if operation.public}
    auth = {f"POST /v1/auth/{what}" for what in ("register", "login", "refresh", "logout")}
    assert public == auth | {"GET /healthz", "GET /readyz", "GET /metrics"}


@pytest.mark.parametrize("operation", NAMED, ids=name)
def test_what_belongs_to_another_user_is_not_there(ada: Person, bob: Person, operation: Operation) -> None:
    task = bob.ended_task()
    token = bob.post("/v1/tokens", {"name": "t"}, 201)
    path = filled(operation, task_id=task["id"], project_id=task["project_id"], token_id=token["id"])
    answer = ada(operation.method, path, BODIES.get(operation.name, {} if operation.body else None))
    assert (answer.status_code, answer.json["code"]) == (404, "not_found"), answer.text
    # The same as for one that nobody has.
    nobody = str(new_id())
    unknown = filled(operation, task_id=nobody, project_id=nobody, token_id=nobody)
    other = ada(operation.method, unknown, BODIES.get(operation.name, {} if operation.body else None))
    assert other.json == answer.json
    # Nothing happened to it.
    assert bob.get(f"/v1/tasks/{task['id']}") == task
    assert bob.get("/v1/tokens")["items"][0]["id"] == token["id"]
    assert bob.get(f"/v1/projects/{task['project_id']}")["name"] == "owner/name"


def test_lists_are_of_their_user(ada: Person, bob: Person) -> None:
    bob.task()
    bob.post("/v1/tokens", {"name": "t"}, 201)
    for path in ("/v1/tasks", "/v1/projects", "/v1/tokens", "/v1/usage"):
        assert ada.get(path)["items"] == []
    assert ada.get("/v1/me")["id"] == str(ada.id)


def test_a_task_can_not_be_started_in_a_project_of_another_user(ada: Person, bob: Person) -> None:
    project = bob.task()["project_id"]
    assert ada.post("/v1/tasks", {"project_id": project, "prompt": "p"}, 404)["code"] == "not_found"
    assert ada.task(repo_url=REPO)["project_id"] != project


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer x", "Bearer fh_x", "Basic eDp5", "Bearer é", ""])
def test_nobody_gets_nothing(http: FlaskClient, header: str | None) -> None:
    some = str(UUID(int=1))
    headers = {} if header is None else {"Authorization": header}
    for operation in PRIVATE:
        path = filled(operation, task_id=some, project_id=some, token_id=some)
        answer = http.open(path, method=operation.method, headers=headers, json={})
        assert answer.status_code == 401, f"{name(operation)}: {answer.text}"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json is not None
        assert answer.json["code"] in {"unauthenticated", "token_invalid"}
