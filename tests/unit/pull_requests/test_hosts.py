"""Which hosts are a GitHub, and where their REST API is."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from infra.github import GitHubRepo, github_repo
from infra.settings import Settings


@pytest.mark.parametrize(
    ("url", "hosts", "api"),
    [
        ("https://github.com/o/r", (), "https://api.github.com"),
        ("https://github.com/o/r.git", (), "https://api.github.com"),
        ("https://acme.ghe.com/o/r", (), "https://api.acme.ghe.com"),
        ("https://git.acme.example/o/r", ("git.acme.example",), "https://git.acme.example/api/v3"),
        ("https://git.acme.example:8443/o/r", ("Git.Acme.example",), "https://git.acme.example:8443/api/v3"),
        ("https://git.acme.example/o/r", ("git.acme.example=https://api.acme.example/",), "https://api.acme.example"),
        ("http://127.0.0.1:81/o/r", ("127.0.0.1:81=http://127.0.0.1:82/api/v3",), "http://127.0.0.1:82/api/v3"),
        ("https://github.com/o/r", ("github.com=https://proxy.example/gh",), "https://proxy.example/gh"),
    ],
)
def test_the_api_of_a_repository(url: str, hosts: tuple[str, ...], api: str) -> None:
    assert github_repo(url, hosts) == GitHubRepo(api, "o", "r")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://git.acme.example/o/r", ()),
        ("https://github.com.evil.example/o/r", ()),
        ("https://ghe.com/o/r", ()),
        ("https://github.com/r", ()),
        ("https://github.com/group/o/r", ()),
        ("http://127.0.0.1:83/o/r", ("127.0.0.1:81",)),
        ("file:///o/r", ()),
    ],
)
def test_what_is_no_github(url: str, hosts: tuple[str, ...]) -> None:
    assert github_repo(url, hosts) is None


@pytest.mark.parametrize(
    "entry", ["https://git.acme.example", "=https://x", "a=b", "a=", "a=https://u:p@x", "a=ftp://x"]
)
def test_a_wrong_entry_is_told_before_anything_starts(entry: str) -> None:
    with pytest.raises(ValidationError, match="An entry is"):
        Settings.model_validate({"github_hosts": entry})
