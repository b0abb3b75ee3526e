"""The stand-in answers as GitHub's REST description says, so that tests against it mean something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standin.github import Fault, GitHubStandIn
from tests.standin.gitserver import GitServer

REPO = "owner/sample"
NEW = {"title": "t", "head": "farhand/x", "base": "main"}


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHubStandIn]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    with GitServer(tmp_path / "git") as git_host, GitHubStandIn(git_host, token="good") as server:
        git_host.create(REPO, from_dir=tmp_path / "tree")
        for branch in ("farhand/x", "farhand/y"):
            sha = git_host.git(REPO, "commit-tree", "-m", branch, "-p", "main", "main^{tree}").strip()
            git_host.git(REPO, "update-ref", f"refs/heads/{branch}", sha)
        yield server


@pytest.fixture
def api(github: GitHubStandIn) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer good"}
    with httpx.Client(base_url=f"{github.base_url}/api/v3/repos/{REPO}", headers=headers, trust_env=False) as client:
        yield client


def numbers(api: httpx.Client, **query: str) -> list[int]:
    return [pull["number"] for pull in api.get("/pulls", params=query).json()]


def test_credentials_and_repositories(github: GitHubStandIn, api: httpx.Client) -> None:
    assert api.get("/pulls", headers={"Authorization": "Bearer bad"}).status_code == 401
    assert api.get("/pulls", headers={"User-Agent": ""}).status_code == 403
    assert api.get(f"{github.base_url}/repos/owner/other/pulls").status_code == 404


def test_one_is_opened_listed_and_changed(github: GitHubStandIn, api: httpx.Client) -> None:
    made = api.post("/pulls", json={**NEW, "draft": True, "body": "b"})
    assert made.status_code == 201
    assert (made.json()["number"], made.json()["draft"], made.json()["merged_at"]) == (1, True, None)
    assert made.json()["head"]["sha"] == github.git_host.refs(REPO)["refs/heads/farhand/x"]
    assert api.post("/pulls", json={**NEW, "head": "farhand/y"}).json()["number"] == 2
    assert numbers(api, head="owner:farhand/x") == [1]
    assert numbers(api, head="farhand/x") == [2, 1], "a filter without an owner is passed over"
    assert api.patch("/pulls/1", json={"body": "c", "state": "closed"}).json()["body"] == "c"
    assert numbers(api) == [2]
    assert numbers(api, state="all", sort="created", direction="desc") == [2, 1]
    assert api.patch("/pulls/3", json={"body": "c"}).status_code == 404


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"head": "gone"}, {"field": "head", "code": "invalid"}),
        ({"base": "gone"}, {"field": "base", "code": "invalid"}),
        ({"head": "main"}, {"code": "custom", "message": "No commits between main and main"}),
        ({"body": "x" * 70_000}, {"field": "body", "message": "body is too long (maximum is 65536 characters)"}),
        ({}, {"code": "custom", "message": "A pull request already exists for owner:farhand/x."}),
    ],
)
def test_what_it_refuses(api: httpx.Client, change: dict[str, Any], error: dict[str, str]) -> None:
    api.post("/pulls", json=NEW)
    refused = api.post("/pulls", json=NEW | change)
    assert refused.status_code == 422
    assert refused.json()["message"] == "Validation Failed"
    (told,) = refused.json()["errors"]
    assert told.items() >= error.items()


def test_a_closed_one_makes_room_for_another(github: GitHubStandIn, api: httpx.Client) -> None:
    api.post("/pulls", json=NEW)
    github.change(REPO, 1, state="closed")
    assert api.post("/pulls", json=NEW).json()["number"] == 2, "so it is for us to see that there was one"


def test_faults(github: GitHubStandIn, api: httpx.Client) -> None:
    github.inject("GET", Fault(status=502, headers={"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}))
    github.inject("POST", Fault("cut", afterwards=True))
    answer = api.get("/pulls")
    assert (answer.status_code, answer.headers.get_list("date")) == (502, ["Thu, 01 Jan 1970 00:00:00 GMT"])
    with pytest.raises(httpx.TransportError):
        api.post("/pulls", json=NEW)
    assert numbers(api) == [1]
