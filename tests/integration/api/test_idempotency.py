"""A repeated POST is done once."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from werkzeug.test import TestResponse

from api import actions
from api.actions import StartTask
from api.app import REST
from api.routes import Operation
from infra.errors import InvalidInputError
from infra.services import Services
from infra.tables import ApiToken, IdempotencyKey, Invite, Message, Project, Task, User
from tests.integration.api.conftest import REPO, Person
from tests.integration.database_locks import wait_until_somebody_waits

TASK = {"repo_url": REPO, "prompt": "p"}
KEY = {"Idempotency-Key": "k-1"}


def count(services: Services, table: Any) -> int:
    with services.database.begin() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_repeat_is_told_the_first_answer_and_does_nothing(ada: Person, services: Services) -> None:
    first = ada("POST", "/v1/tasks", TASK, headers=KEY)
    ada.post(f"/v1/tasks/{first.json['id']}/cancel")
    again = ada("POST", "/v1/tasks", TASK, headers=KEY)
    assert (again.status_code, again.json) == (202, first.json)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count(services, Task) == 1


def test_the_same_key_for_something_else_is_refused(ada: Person, services: Services) -> None:
    ada("POST", "/v1/tasks", TASK, headers=KEY)
    other = ada("POST", "/v1/tasks", {**TASK, "prompt": "q"}, headers=KEY)
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    assert count(services, Task) == 1


def test_keys_are_of_one_user_and_one_operation(ada: Person, bob: Person) -> None:
    task = ada.post("/v1/tasks", TASK, headers=KEY)
    assert bob.post("/v1/tasks", TASK, headers=KEY)["id"] != task["id"]
    ada.post("/v1/projects", {"repo_url": REPO + "2"}, 201, headers=KEY)
    assert ada.post(f"/v1/tasks/{task['id']}/cancel", headers=KEY)["status"] == "cancelled"


def test_a_refused_request_does_not_use_its_key_up(ada: Person) -> None:
    body = {"project_id": "01a00000-0000-7000-8000-000000000000", "prompt": "p"}
    assert ada("POST", "/v1/tasks", body, headers=KEY).status_code == 404
    assert ada("POST", "/v1/tasks", TASK, headers=KEY).status_code == 202


@pytest.mark.parametrize("key", ["", "k" * 201, "snow\u00e9"])
def test_a_key_that_is_none(ada: Person, key: str) -> None:
    response = ada("POST", "/v1/tasks", TASK, headers={"Idempotency-Key": key.encode("latin-1").decode("latin-1")})
    assert (response.status_code, response.json["code"]) == (422, "idempotency_key_invalid")


@pytest.mark.parametrize("table", ["/v1/tasks", "/v1/projects"])
def test_of_many_at_the_same_time_one_is_done(ada: Person, services: Services, table: str) -> None:
    body = TASK if table == "/v1/tasks" else {"repo_url": REPO}
    answers: list[Any] = []
    start = threading.Barrier(8)

    def post() -> None:
        start.wait(10)
        answers.append(ada("POST", table, body, headers=KEY))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({answer.get_json()["id"] for answer in answers}) == 1, [answer.text for answer in answers]
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert count(services, Task if table == "/v1/tasks" else Project) == 1


def test_a_repeat_that_comes_while_the_first_is_at_work_waits_for_it(ada: Person, services: Services) -> None:
    """The first holds the key in an open transaction, then fails: the second does the work itself."""
    answers: list[TestResponse] = []
    with services.database.engine.connect() as first:
        first.execute(
            text(
                "insert into idempotency_keys (user_id, operation, key, request_hash, status, body)"
                " values (:user, 'start_task', 'k-1', 'x', 0, '{}')"
            ),
            {"user": ada.id},
        )
        thread = threading.Thread(target=lambda: answers.append(ada("POST", "/v1/tasks", TASK, headers=KEY)))
        thread.start()
        wait_until_somebody_waits(services)
        assert not answers
        first.rollback()
    thread.join(20)
    assert [answer.status_code for answer in answers] == [202]
    assert "Idempotency-Replayed" not in answers[0].headers


@pytest.mark.parametrize(
    ("path", "shown", "table"), [("/v1/tokens", "token", ApiToken), ("/v1/invites", "code", Invite)]
)
def test_a_secret_is_made_once_shown_again_and_not_kept_in_clear(
    ada: Person, services: Services, path: str, shown: str, table: Any
) -> None:
    with services.database.begin() as connection:
        connection.execute(update(User).values(is_admin=True))
    body = {"name": "phone"} if table is ApiToken else None
    first, again = (ada("POST", path, body, headers=KEY) for _ in range(2))
    assert (first.status_code, again.status_code, again.json) == (201, 201, first.json)
    assert ("Idempotency-Replayed" in first.headers, "Idempotency-Replayed" in again.headers) == (False, True)
    assert count(services, table) == 1
    with services.database.begin() as connection:
        kept = connection.execute(select(*IdempotencyKey.__table__.c)).one()
    assert (kept.status, kept.body) == (201, {})
    assert first.json[shown] not in str(kept)
    assert ada.post(path, body, 201)[shown] != first.json[shown], "without the key another one is made"
    assert count(services, table) == 2


def test_every_post_of_a_user_takes_a_key_but_for_tickets() -> None:
    posts = [operation for operation in REST if operation.method == "POST" and not operation.public]
    assert [operation.path for operation in posts if not operation.idempotent] == ["/v1/stream-tickets"]


@pytest.mark.parametrize("operation", [o for o in REST if o.idempotent], ids=lambda operation: operation.name)
def test_whoever_says_to_take_a_key_looks_at_it(ada: Person, operation: Operation) -> None:
    bodies = {
        "start_task": TASK,
        "create_project": {"repo_url": REPO},
        "create_token": {"name": "phone"},
        "send_message": {"text": "hi"},
        "answer_question": {"question_id": "q", "text": "yes"},
    }
    path = operation.path.replace("<uuid:task_id>", ada.task()["id"])
    refused = ada("POST", path, bodies.get(operation.name, {}), headers={"Idempotency-Key": "k" * 201})
    assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_invalid")


def test_messages_are_said_once(ada: Person, services: Services) -> None:
    path = f"/v1/tasks/{ada.task()['id']}/messages"
    for _ in range(3):
        ada.post(path, {"text": "hello"}, headers=KEY)
    assert count(services, Message) == 2
    other = f"/v1/tasks/{ada.task()['id']}/messages"
    assert ada.post(other, {"text": "hello"}, 422, headers=KEY)["code"] == "idempotency_mismatch"


def test_the_gateway_uses_the_same_keys(ada: Person, services: Services) -> None:
    request = StartTask.model_validate_json('{"repo_url": "https://example.com/owner/name", "prompt": "p"}')
    first = actions.start_task(services, ada.id, request, key="k-1")
    assert (first.replayed, first.task["status"]) == (False, "pending")
    again = actions.start_task(services, ada.id, request, key="k-1")
    assert (again.replayed, again.task) == (True, first.task)
    assert ada("POST", "/v1/tasks", TASK, headers=KEY).headers["Idempotency-Replayed"] == "true"
    with pytest.raises(InvalidInputError, match="used for another request"):
        actions.start_task(services, ada.id, request.model_copy(update={"prompt": "q"}), key="k-1")
