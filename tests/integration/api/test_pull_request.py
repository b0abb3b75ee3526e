"""Asking for a pull request over REST, and the project's setting for it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from infra.services import Services
from infra.tasks import pull_requests, records
from tests.integration.api.conftest import Person

GITHUB = "https://github.com/owner/name"
SHA = "1" * 40
PUSHED = {"branch": "b", "sha": SHA, "files_changed": 1, "insertions": 1, "deletions": 0}


def pushed_task(ada: Person, services: Services, **project: Any) -> str:
    """The id of a running task that has pushed."""
    made = ada.post("/v1/projects", {"repo_url": GITHUB, "git_token": "t", **project}, 201)
    task = ada.post("/v1/tasks", {"project_id": made["id"], "prompt": "p"})
    lease = ada.claimed(task)
    with services.tasks.transaction() as tx:
        records.record_push(tx, lease, sha=SHA, event=("branch_pushed", PUSHED))
    return str(task["id"])


def test_a_request_is_there_until_a_worker_saw_to_it(ada: Person, services: Services) -> None:
    task_id = pushed_task(ada, services)
    assert ada.get(f"/v1/tasks/{task_id}")["pull_request_requested_at"] is None
    asked = ada.post(f"/v1/tasks/{task_id}/pull-request")
    assert asked["pull_request_requested_at"] is not None
    assert asked["pull_request"] is None
    with services.tasks.transaction() as tx:
        hold = pull_requests.take(tx)
        assert hold is not None
        assert hold.task_id == UUID(task_id)
        pull_requests.finish(tx, hold, {"url": f"{GITHUB}/pull/7", "number": 7})
    task = ada.get(f"/v1/tasks/{task_id}")
    assert task["pull_request"] == {"url": f"{GITHUB}/pull/7", "number": 7}
    assert task["pull_request_requested_at"] is None


def test_a_repeat_with_its_key_asks_once(ada: Person, services: Services) -> None:
    path = f"/v1/tasks/{pushed_task(ada, services)}/pull-request"
    first = ada("POST", path, {}, headers={"Idempotency-Key": "k"})
    with services.tasks.transaction() as tx:
        hold = pull_requests.take(tx)
        assert hold is not None
        pull_requests.finish(tx, hold, None)
    again = ada("POST", path, {}, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    with services.tasks.transaction() as tx:
        assert pull_requests.take(tx) is None


def test_somebody_elses_task_is_not_there(ada: Person, bob: Person, services: Services) -> None:
    task_id = pushed_task(ada, services)
    assert bob.post(f"/v1/tasks/{task_id}/pull-request", status=404)["code"] == "not_found"


def test_why_there_can_be_none(ada: Person, services: Services) -> None:
    task_id = pushed_task(ada, services)
    project = f"/v1/projects/{ada.get(f'/v1/tasks/{task_id}')['project_id']}"
    for change, code in (({"pull_request": "never"}, "pull_requests_off"), ({"git_token": None}, "git_token_missing")):
        ada("PATCH", project, {"pull_request": "on_request", "git_token": "t"} | change)
        problem = ada.post(f"/v1/tasks/{task_id}/pull-request", status=409)
        assert problem["code"] == code
        assert project in problem["hint"]
    elsewhere = ada.task()
    assert ada.post(f"/v1/tasks/{elsewhere['id']}/pull-request", status=409)["code"] == "no_branch"


def test_a_host_that_is_no_github(ada: Person, services: Services) -> None:
    task_id = pushed_task(ada, services, repo_url="https://git.example.com/owner/name")
    problem = ada.post(f"/v1/tasks/{task_id}/pull-request", status=409)
    assert problem["code"] == "pull_request_host_unsupported"
    assert "FARHAND_GITHUB_HOSTS" in problem["hint"]


def test_a_project_says_when(ada: Person) -> None:
    project = ada.post("/v1/projects", {"repo_url": GITHUB}, 201)
    assert project["pull_request"] == "on_request"
    path = f"/v1/projects/{project['id']}"
    assert ada("PATCH", path, {"pull_request": "always"}).json["pull_request"] == "always"
    assert ada("PATCH", path, {"name": "n"}).json["pull_request"] == "always"
    assert ada("PATCH", path, {"pull_request": None}).json["pull_request"] == "always"


@pytest.mark.parametrize("wrong", ["sometimes", "", 1, True])
def test_other_words_are_refused(ada: Person, wrong: object) -> None:
    problem = ada.post("/v1/projects", {"repo_url": GITHUB, "pull_request": wrong}, 422)
    assert problem["errors"][0]["field"] == "pull_request"
