"""What the API answers while the services behind it are down, and how it comes back."""

from __future__ import annotations

import time

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from infra.services import Services
from tests.integration.api.conftest import REPO, Person
from tests.services import Postgres, Redis

TASK = {"repo_url": REPO, "prompt": "p"}


def test_a_task_is_taken_at_once_while_redis_is_down(ada: Person, redis_server: Redis, services: Services) -> None:
    redis_server.stop()
    try:
        begun = time.monotonic()
        task = ada.post("/v1/tasks", TASK)
        again = ada.post(f"/v1/tasks/{task['id']}/messages", {"text": "more"})
        cancelled = ada.post(f"/v1/tasks/{task['id']}/cancel")
        assert time.monotonic() - begun < 2
        assert (again["id"], cancelled["status"]) == (task["id"], "cancelled")
        assert len(ada.get(f"/v1/tasks/{task['id']}/events")["items"]) == 3
        not_ready = ada.get("/readyz", 503)
        assert (not_ready["code"], [error["field"] for error in not_ready["errors"]]) == ("not_ready", ["redis"])
        ticket = ada("POST", "/v1/stream-tickets")
        assert (ticket.status_code, ticket.json["code"]) == (503, "unavailable")
        assert ticket.headers["Retry-After"]
        assert "farhand_tasks_pending 0.0" in ada("GET", "/metrics").text
        assert services.wake_ups.outbox.flush(30)
    finally:
        redis_server.start()
    ada.get("/readyz")
    ada.post("/v1/stream-tickets", status=201)
    task = ada.task()
    assert services.wake_ups.outbox.flush(10)
    assert task["id"] in str(services.bus.redis.lrange("agents", 0, -1))


def test_without_postgres_it_says_so_and_comes_back(ada: Person, postgres: Postgres, http: FlaskClient) -> None:
    ada.task()
    postgres.stop()
    try:
        for method, path, body in (
            ("POST", "/v1/tasks", TASK),
            ("GET", "/v1/tasks", None),
            ("POST", "/v1/auth/login", {"email": "a@example.com", "password": "p"}),
        ):
            answer = ada(method, path, body)
            assert (answer.status_code, answer.json["code"]) == (503, "unavailable"), answer.text
            assert answer.headers["Retry-After"] == "2"
            # The address of the database and its password are nobody's business.
            assert str(postgres.port) not in answer.text
        token = http.get("/v1/me", headers={"Authorization": "Bearer fh_x"})
        assert token.status_code == 503
        not_ready = ada.get("/readyz", 503)
        assert [error["field"] for error in not_ready["errors"]] == ["postgres"]
        assert http.get("/healthz").status_code == 200
        assert http.get("/metrics").status_code == 200
    finally:
        postgres.start()
    # A connection of the pool may still be dead: the first request after an outage finds that out for all.
    ada("GET", "/v1/tasks")
    assert len(ada.get("/v1/tasks")["items"]) == 1
    ada.get("/readyz")


def test_a_statement_that_waits_too_long_is_an_outage(ada: Person, services: Services) -> None:
    """Somebody holds a lock: the request ends when its statement times out."""
    with services.database.engine.connect() as blocker:
        blocker.execute(text("lock table projects in access exclusive mode"))
        # The one connection in the pool of reads, which the next request gets: no test waits for the real bound.
        with services.database.read() as connection:
            connection.execute(text("set statement_timeout = 300"))
        answer = ada("GET", "/v1/projects")
        assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
        blocker.rollback()
    ada.get("/v1/projects")


@pytest.mark.parametrize("given", ["abc-1.2_3", None, "a" * 65, "a b", "é", "<script>"])
def test_every_answer_has_a_request_id(http: FlaskClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    for path in ("/healthz", "/v1/me", "/nothing"):
        answered = http.get(path, headers=headers).headers["X-Request-Id"]
        assert (answered == given) == (given == "abc-1.2_3")
        assert answered.isascii()
        assert len(answered) <= 64


def test_every_answer_has_the_security_headers_and_no_cors(http: FlaskClient, ada: Person) -> None:
    for answer in (http.get("/healthz"), http.get("/nothing"), ada("GET", "/v1/tasks"), http.get("/docs")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Strict-Transport-Security" not in answer.headers
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = http.options("/v1/tasks", headers=preflight)
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_a_bug_is_a_problem_too(ada: Person, services: Services, caplog: pytest.LogCaptureFixture) -> None:
    with services.database.begin() as connection:
        connection.execute(text("drop table messages cascade"))
    answer = ada("POST", "/v1/tasks", TASK, headers={"X-Request-Id": "find-me"})
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "find-me" in answer.json["hint"]
    assert "messages" not in answer.text
    assert "UndefinedTable" in caplog.text


def test_requests_are_counted_by_route_and_status(ada: Person) -> None:
    task = ada.task()
    ada.get(f"/v1/tasks/{task['id']}")
    ada.get("/v1/no-such-thing", 404)
    for made_up in ("BREW", "WHEN"):
        assert ada(made_up, "/v1/tasks").status_code == 405
    metrics = ada("GET", "/metrics")
    assert metrics.mimetype == "text/plain"
    for line in (
        'farhand_http_requests_total{method="POST",route="/v1/tasks",status="202"} 1.0',
        'farhand_http_requests_total{method="GET",route="/v1/tasks/<uuid:task_id>",status="200"} 1.0',
        'farhand_http_requests_total{method="GET",route="(none)",status="404"} 1.0',
        'farhand_http_requests_total{method="OTHER",route="(none)",status="405"} 2.0',
        "farhand_tasks_pending 1.0",
    ):
        assert line in metrics.text
    assert 'farhand_queue_messages{queue="agents"}' in metrics.text
    assert task["id"] not in metrics.text
