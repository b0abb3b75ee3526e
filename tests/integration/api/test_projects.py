"""Projects over REST, and their secrets."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from infra.services import Services
from infra.tables import Project
from tests.integration.api.conftest import REPO, Person

TOKEN = "ghp_a-secret-of-somebody"


def stored_token(services: Services, project: dict[str, Any]) -> str | None:
    with services.database.begin() as connection:
        sealed = connection.execute(
            select(Project.git_token_encrypted).where(Project.id == UUID(project["id"]))
        ).scalar_one()
    assert sealed is None or TOKEN.encode() not in sealed
    return services.keys.decrypt(sealed) if sealed else None


def test_a_git_token_goes_in_and_never_comes_out(ada: Person, services: Services) -> None:
    asked = {"repo_url": REPO, "git_token": TOKEN, "git_username": "me"}
    response = ada("POST", "/v1/projects", asked)
    project = response.json
    assert (project["name"], project["git_username"], project["has_git_token"]) == ("owner/name", "me", True)
    assert stored_token(services, project) == TOKEN
    everything = [response, ada("GET", "/v1/projects"), ada("GET", f"/v1/projects/{project['id']}")]
    assert not any(TOKEN in answer.text for answer in everything)
    with services.database.begin() as connection:
        kept = connection.execute(text("select coalesce(string_agg(body::text, ''), '') from idempotency_keys"))
        assert TOKEN not in kept.scalar_one()


def test_what_a_change_leaves_out_stays_and_null_takes_away(ada: Person, services: Services) -> None:
    asked = {"repo_url": REPO, "git_token": TOKEN, "git_username": "me", "name": "n"}
    path = f"/v1/projects/{ada.post('/v1/projects', asked, 201)['id']}"
    renamed = ada("PATCH", path, {"name": "other"}).json
    assert (renamed["name"], renamed["git_username"], renamed["has_git_token"]) == ("other", "me", True)
    assert ada("PATCH", path, {}).json == renamed
    bare = ada("PATCH", path, {"git_token": None, "git_username": None, "name": None}).json
    assert (bare["name"], bare["git_username"], bare["has_git_token"]) == ("other", None, False)
    assert stored_token(services, bare) is None
    assert stored_token(services, ada("PATCH", path, {"git_token": TOKEN + "2"}).json) == TOKEN + "2"
    refused = ada("PATCH", path, {"repo_url": "https://example.com/elsewhere"})
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "repo_url")


def test_a_repository_has_one_project(ada: Person, bob: Person) -> None:
    project = ada.post("/v1/projects", {"repo_url": REPO}, 201)
    again = ada.post("/v1/projects", {"repo_url": REPO + "/"}, 409)
    assert again["code"] == "project_exists"
    assert project["id"] in again["hint"]
    assert ada.task()["project_id"] == project["id"]
    bob.post("/v1/projects", {"repo_url": REPO}, 201)


def test_projects_are_listed_in_pages(ada: Person) -> None:
    made = [ada.post("/v1/projects", {"repo_url": f"{REPO}{n}"}, 201)["id"] for n in range(3)]
    first = ada.get("/v1/projects?limit=2")
    second = ada.get(f"/v1/projects?limit=2&cursor={first['next']}")
    assert [item["id"] for item in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None


def test_a_project_goes_with_its_ended_tasks_and_not_before(ada: Person) -> None:
    ended, pending = ada.ended_task(), ada.task()
    path = f"/v1/projects/{ended['project_id']}"
    refused = ada("DELETE", path)
    assert (refused.status_code, refused.json["code"]) == (409, "project_in_use")
    ada.post(f"/v1/tasks/{pending['id']}/cancel")
    assert ada("DELETE", path).status_code == 204
    assert ada("GET", path).status_code == 404
    assert ada.get("/v1/tasks")["items"] == []
    in_it = ada.post("/v1/tasks", {"project_id": ended["project_id"], "prompt": "p"}, 404)
    assert in_it["code"] == "not_found"


@pytest.mark.parametrize("url", ["https://user:pass@example.com/r", "https://token@example.com/r"])
def test_credentials_in_a_url_are_refused_and_not_repeated(ada: Person, url: str) -> None:
    for path, body in (("/v1/projects", {"repo_url": url}), ("/v1/tasks", {"repo_url": url, "prompt": "p"})):
        response = ada("POST", path, body)
        assert (response.status_code, response.json["code"]) == (422, "repo_url_has_credentials")
        assert "pass" not in response.text.replace("password", "")
        assert "token@" not in response.text


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("none", "none"),
        ("registries", "registries"),
        ("open", "open"),
        ([], "none"),
        (["Example.COM.", "*.example.org:8443", "example.com"], ["example.com", "*.example.org:8443"]),
        (None, "none"),
    ],
)
def test_egress_is_said_in_a_word_or_a_list_of_hosts(ada: Person, asked: Any, kept: Any) -> None:
    project = ada.post("/v1/projects", {"repo_url": REPO, "egress": asked}, 201)
    path = f"/v1/projects/{project['id']}"
    assert project["egress"] == ada.get(path)["egress"] == kept
    assert ada("PATCH", path, {"name": "n"}).json["egress"] == kept
    assert ada("PATCH", path, {"egress": "open"}).json["egress"] == "open"
    assert ada("PATCH", path, {"egress": asked}).json["egress"] == kept
    assert ada.post("/v1/projects", {"repo_url": REPO + "2"}, 201)["egress"] == "none"


@pytest.mark.parametrize(
    "asked",
    [
        "everything", "", 1, True, {}, ["https://example.com"], ["*.com"], [""], ["10.0.0.1"], ["localhost:8080"], [1],
        ["a.example"] * 101, ["x" * 301], ["*"], ["user@example.com"], ["169.254.169.254:80"], "example.com",
    ],
)  # fmt: skip
def test_egress_that_cannot_be_is_refused_with_a_reason(ada: Person, asked: Any) -> None:
    problem = ada.post("/v1/projects", {"repo_url": REPO, "egress": asked}, 422)
    assert "egress" in problem["detail"] + str(problem.get("errors"))
    assert problem["hint"]
