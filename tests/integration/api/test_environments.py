"""The environment of a project over REST: what goes in, what comes out, and what never does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from infra import images_asked
from infra.environment import environment_of
from infra.services import Services
from infra.tables import Image, Project
from tests.integration.api.conftest import REPO, Person

VALUE = "a-value-of-the-tests"
NO_GIT = {"code": "image_without_git", "message": "the image has no git", "hint": "Install git in it."}


@pytest.fixture
def more_settings() -> dict[str, Any]:
    return {"image_check_wait": 0.0, "project_images": ("python:*", "registry.example/*")}


def project(person: Person, **fields: Any) -> Any:
    return person.post("/v1/projects", {"repo_url": REPO, **fields}, 201)


def test_secrets_go_in_and_never_come_out(ada: Person, services: Services) -> None:
    made = ada("POST", "/v1/projects", {"repo_url": REPO, "secrets": {"B": VALUE, "A": VALUE}}, headers=_key("k"))
    path = f"/v1/projects/{made.json['id']}"
    everything = [made, ada("GET", path), ada("GET", "/v1/projects"), ada("PATCH", path, {"name": "n"})]
    assert {str(answer.json.get("secret_names", ["A", "B"])) for answer in everything} == {"['A', 'B']"}
    assert not any(VALUE in answer.text for answer in everything)
    with services.database.begin() as connection:
        assert environment_of(connection, UUID(made.json["id"]), services.keys).secrets == {"A": VALUE, "B": VALUE}
        stored = connection.execute(select(Project.secrets)).scalar_one()
        kept = connection.execute(text("select string_agg(request_hash || body::text, '') from idempotency_keys"))
        assert VALUE not in str(stored) + kept.scalar_one()
    assert VALUE not in repr(environment_of_now(services, made.json["id"]))


def test_a_repeat_with_another_secret_is_another_request(ada: Person) -> None:
    first = ada("POST", "/v1/projects", {"repo_url": REPO, "secrets": {"A": VALUE}}, headers=_key("k"))
    again = ada("POST", "/v1/projects", {"repo_url": REPO, "secrets": {"A": VALUE}}, headers=_key("k"))
    other = ada("POST", "/v1/projects", {"repo_url": REPO, "secrets": {"A": VALUE + "2"}}, headers=_key("k"))
    assert (first.status_code, again.json) == (201, first.json)
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")


def test_secrets_are_merged_variables_replaced_and_null_takes_away(ada: Person, services: Services) -> None:
    made = project(ada, secrets={"A": VALUE, "B": VALUE}, variables={"X": "1", "Y": ""}, setup_script="make deps\n")
    path = f"/v1/projects/{made['id']}"
    assert (made["variables"], made["setup_script"]) == ({"X": "1", "Y": ""}, "make deps\n")
    changed = ada("PATCH", path, {"secrets": {"A": None, "C": VALUE + "3"}, "variables": {"Z": "ü\nb"}}).json
    assert (changed["secret_names"], changed["variables"]) == (["B", "C"], {"Z": "ü\nb"})
    assert environment_of_now(services, made["id"]).secrets == {"B": VALUE, "C": VALUE + "3"}
    bare = ada("PATCH", path, {"variables": None, "setup_script": None}).json
    assert (bare["secret_names"], bare["variables"], bare["setup_script"]) == (["B", "C"], {}, None)


@pytest.mark.parametrize(
    "fields",
    [
        *({"variables": {name: "x"}} for name in (
            "", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "A\0", "a" * 101,
            "HOME", "home", "USER", "HTTP_PROXY", "https_proxy", "No_Proxy", "FARHAND_X", "farhand_x",
            "IN_FARHAND_SANDBOX",
        )),
        {"variables": {"A": "nul\0"}}, {"variables": {"A": "x" * 8193}},
        {"variables": {"A": 1}}, {"variables": {"A": None}},
        {"variables": {f"N{n}": "x" for n in range(51)}}, {"variables": {f"N{n}": "x" * 8000 for n in range(9)}},
        {"variables": []}, {"variables": "A=b"}, {"secrets": {"A": 1}}, {"secrets": ["A"]}, {"secrets": {"A": ["x"]}},
        {"secrets": {"A": "short"}}, {"secrets": {"A": "        "}},
        {"secrets": {"HOME": VALUE}}, {"secrets": {"A": VALUE + "\0"}},
        {"secrets": {f"N{n}": VALUE for n in range(51)}}, {"secrets": {"A": VALUE * 500}},
        {"secrets": {"A": VALUE}, "variables": {"A": "x"}},
        {"setup_script": ""}, {"setup_script": " \n"}, {"setup_script": "a\0b"},
        {"setup_script": "x" * 32_769}, {"setup_script": 5},
    ],
)  # fmt: skip
def test_an_environment_that_cannot_be_is_refused_and_not_repeated(ada: Person, fields: dict[str, Any]) -> None:
    problem = ada.post("/v1/projects", {"repo_url": REPO, **fields}, 422)
    assert problem["code"] in {"invalid_input", "environment_invalid"}
    assert problem["hint"]
    assert VALUE not in str(problem)
    assert ada.get("/v1/projects")["items"] == []


def test_what_half_a_character_is(ada: Person) -> None:
    body = f'{{"repo_url": "{REPO}", "variables": {{"A": "\\ud800"}}}}'
    assert ada("POST", "/v1/projects", data=body, content_type="application/json").status_code in {400, 422}


def test_a_secret_and_a_variable_of_one_name_are_refused_also_later(ada: Person) -> None:
    path = f"/v1/projects/{project(ada, secrets={'A': VALUE}, variables={'B': 'x'})['id']}"
    for change in ({"variables": {"A": "x"}}, {"secrets": {"B": VALUE}}):
        assert ada("PATCH", path, change).json["code"] == "environment_invalid"
    assert ada("PATCH", path, {"secrets": {"A": None}, "variables": {"A": "x"}}).json["variables"] == {"A": "x"}


@pytest.mark.parametrize(
    "image",
    [
        "--privileged", "-v/:/host", "python 3", "python\n", "python\0", "Python:3", "python:", "python@sha256:abc",
        "a" * 257, "",
        "sha256:" + "a" * 64, "sha256", "scratch", "../x", "/x", "x/", "http://registry.example/x",
        "python:3@sha256:" + "a" * 64, "docker.io/library/farhand-agent:1", "index.docker.io/farhand-x",
        "farhand-agent:1", "farhand-anything", 5, ["python"], "debian:12", "registry.example.evil/x",
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_is_refused(ada: Person, image: Any) -> None:
    problem = ada.post("/v1/projects", {"repo_url": REPO, "image": image}, 422)
    assert problem["code"] in {"invalid_input", "image_invalid"}
    assert ada.get("/v1/projects")["items"] == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("python", "python:latest"),
        ("python:3.12", "python:3.12"),
        ("registry.example/a/b_c", "registry.example/a/b_c:latest"),
        ("docker.io/library/python:3.12", "python:3.12"),
        ("registry.example/a@sha256:" + "a" * 64, "registry.example/a@sha256:" + "a" * 64),
    ],
)
def test_an_image_without_a_verdict_is_saved_and_being_checked(ada: Person, given: str, kept: str) -> None:
    made = project(ada, image=given)
    assert (made["image"], made["image_check"]) == (kept, {"state": "checking", "error": None})
    path = f"/v1/projects/{made['id']}"
    assert ada("PATCH", path, {"image": None}).json["image_check"] is None


def test_a_verdict_that_comes_later_is_shown(ada: Person, services: Services) -> None:
    path = f"/v1/projects/{project(ada, image='python:3')['id']}"
    with services.database.begin() as connection:
        look = images_asked.take(connection)
        assert look is not None
        assert images_asked.take(connection) is None, "held"
        assert images_asked.decide(connection, look, NO_GIT)  # type: ignore[arg-type]
        assert not images_asked.decide(connection, look, None), "a verdict is written once"
    shown = ada.get(path)
    assert shown["image_check"] == {"state": "refused", "error": NO_GIT}
    assert ada.get("/v1/projects")["items"] == [shown]
    assert ada("PATCH", path, {"image": "python:3"}).json["image_check"]["state"] == "checking", "looked at anew"


def test_nobody_has_all_workers_look_at_images(ada: Person, bob: Person) -> None:
    for n in range(images_asked.MAX_OPEN):
        ada.post("/v1/projects", {"repo_url": f"{REPO}{n}", "image": f"python:{n}"}, 201)
    problem = ada.post("/v1/projects", {"repo_url": REPO, "image": "python:many"}, 409)
    assert problem["code"] == "too_many_image_checks"
    ada.post("/v1/projects", {"repo_url": REPO, "image": "python:1"}, 201)
    project(bob, image="python:many")


class TestWithAWorker:
    """One that answers every question of the database, in place of an engine."""

    @pytest.fixture
    def more_settings(self) -> dict[str, Any]:
        return {"image_check_wait": 25.0}

    @pytest.fixture(autouse=True)
    def worker(self, services: Services) -> Iterator[None]:
        stopping = threading.Event()

        def look() -> None:
            while not stopping.wait(0.02):
                with services.database.begin() as connection:
                    if (found := images_asked.take(connection)) is not None:
                        verdict = NO_GIT if "bare" in found.reference else None
                        images_asked.decide(connection, found, verdict)  # type: ignore[arg-type]

        thread = threading.Thread(target=look)
        thread.start()
        yield
        stopping.set()
        thread.join()

    def test_a_refusal_is_the_answer_and_nothing_is_saved(self, ada: Person, services: Services) -> None:
        problem = ada.post("/v1/projects", {"repo_url": REPO, "image": "bare:1"}, 422)
        assert (problem["code"], problem["detail"], problem["hint"]) == tuple(NO_GIT.values())
        assert ada.get("/v1/projects")["items"] == []
        made = project(ada, image="good:1")
        assert made["image_check"] == {"state": "ready", "error": None}
        path = f"/v1/projects/{made['id']}"
        refused = ada("PATCH", path, {"image": "bare:1", "name": "other"})
        assert (refused.status_code, refused.json["code"]) == (422, "image_without_git")
        assert ada.get(path) == made
        with services.database.begin() as connection:
            assert len(connection.execute(select(Image.reference)).all()) == 2


def environment_of_now(services: Services, project_id: str) -> Any:
    with services.database.begin() as connection:
        return environment_of(connection, UUID(project_id), services.keys)


def _key(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}
