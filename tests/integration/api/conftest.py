"""The REST application on a fresh database, and users of it. Every answer is held to the OpenAPI models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from pydantic import ValidationError
from sqlalchemy import insert
from werkzeug.test import TestResponse

from api.app import ALWAYS, REST, create_app
from api.auth import access
from api.problems import MEDIA_TYPE, Problem
from infra.ids import new_id
from infra.services import Services
from infra.settings import Settings
from infra.tables import User
from infra.tasks import transitions
from infra.tasks.transitions import Lease
from tests.services import make_settings
from tests.world import World

REPO = "https://example.com/owner/name"
RECORDING: dict[str, Any] = {"version": 1, "model": "replay:demo", "prompt": "p", "steps": []}
_OPERATIONS = {(operation.method, operation.path): operation for operation in ALWAYS + REST}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    (tmp_path / "demo.json").write_text(json.dumps(RECORDING))
    return tmp_path


@pytest.fixture
def more_settings() -> dict[str, Any]:
    """Overridden by tests that need a setting of their own."""
    return {}


@pytest.fixture
def settings(
    database_url: str, redis_url: str, run_dir: Path, recordings: Path, more_settings: dict[str, Any]
) -> Settings:
    given = {"recordings": recordings, "model": "replay:demo", **more_settings}
    return make_settings(database_url=database_url, redis_url=redis_url, run_dir=run_dir, **given)


@pytest.fixture
def app(services: Services) -> Iterator[Flask]:
    app = create_app(services, stream=False)
    wrong = []

    @app.after_request
    def check_shape(response: Response) -> Response:
        wrong.extend(_undocumented(response))
        return response

    yield app
    assert not wrong
    assert services.wake_ups.outbox.flush(10)
    assert services.bus.outbox.flush(10)


def _undocumented(response: Response) -> list[str]:
    """How an answer differs from what the OpenAPI document says of it."""
    here = f"{request.method} {request.path} → {response.status_code}"
    try:
        if response.status_code >= 400:
            assert response.content_type == MEDIA_TYPE, here
            problem = Problem.model_validate_json(response.get_data(), strict=True)
            assert (problem.status, bool(problem.hint), bool(problem.detail)) == (response.status_code, True, True)
            return []
        operation = _OPERATIONS.get((request.method, request.url_rule.rule if request.url_rule else ""))
        if operation is None:
            return []
        assert response.status_code == operation.status, here
        if operation.answer is not None and response.is_json:
            operation.answer.model_validate_json(response.get_data())
    except (AssertionError, ValidationError) as error:
        return [f"{here}: {error}"]
    return []


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    """Somebody who is not logged in, and keeps no cookies."""
    return app.test_client(use_cookies=False)


@dataclass
class Person:
    """A user with a client that sends their access token."""

    id: UUID
    http: FlaskClient
    token: str
    services: Services

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The response: a `TestResponse`, typed as Any because the type of its `json` admits None."""
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        if body is not None:
            more["json"] = body
        return self.http.open(path, method=method, headers=headers, **more)

    def get(self, path: str, status: int = 200, **more: Any) -> Any:
        return self._json(self("GET", path, **more), status)

    def post(self, path: str, body: Any = None, status: int = 202, **more: Any) -> Any:
        return self._json(self("POST", path, body, **more), status)

    def task(self, **more: Any) -> dict[str, Any]:
        task: dict[str, Any] = self.post("/v1/tasks", {"repo_url": REPO, "prompt": "do it", **more})
        return task

    def claimed(self, task: dict[str, Any]) -> Lease:
        """The task as a worker's."""
        world = World(self.services, self.id, UUID(task["project_id"]))
        lease = world.claim(UUID(task["id"]), world.worker())
        assert lease is not None
        return lease

    def ended_task(self) -> dict[str, Any]:
        """A task that failed under a worker."""
        lease = self.claimed(task := self.task())
        with self.services.tasks.transaction() as tx:
            assert transitions.fail(tx, lease, {"code": "c", "message": "m", "hint": "h"})
        return self.get(f"/v1/tasks/{task['id']}")  # type: ignore[no-any-return]

    @staticmethod
    def _json(response: TestResponse, status: int) -> Any:
        assert response.status_code == status, response.text
        return response.json


@pytest.fixture
def person(app: Flask, services: Services) -> Callable[[str], Person]:
    """Makes users without the cost of a password."""

    def make(name: str) -> Person:
        user_id = new_id()
        with services.database.begin() as connection:
            values = {"id": user_id, "email": f"{name}@example.test", "password_hash": "-"}
            connection.execute(insert(User).values(values))
        return Person(user_id, app.test_client(use_cookies=False), access.issue(services, user_id), services)

    return make


@pytest.fixture
def ada(person: Callable[[str], Person]) -> Person:
    return person("ada")


@pytest.fixture
def bob(person: Callable[[str], Person]) -> Person:
    return person("bob")
