"""GitHub's REST API for pull requests, of github.com and of GitHub Enterprise."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from infra.github import GitHubRepo
from infra.settings import Settings
from workers.pull_requests.base import HostBusyError, HostRefusedError, NewPullRequest, PullRequest
from workers.pull_requests.github_failures import Failures, drafts_are_unknown, exists_already
from workers.pull_requests.pinned import Answer, PinnedHttp

_API_VERSION = "2022-11-28"
_MAX_URL_CHARS = 2000
_PAGE = 50
"""A branch that only one task pushes to has a handful of pull requests at most."""


class GitHub:
    """Implements PullRequestHost for one repository. The token is in the header of its requests, and nowhere else.

    Raises HostRefusedError: the token can't be sent.
    """

    def __init__(self, repo: GitHubRepo, token: str, settings: Settings, *, renew: Callable[[], None]) -> None:
        if not token.isascii() or not token.isprintable() or token != token.strip():
            raise HostRefusedError(
                "the project's git token has characters that no token of GitHub has",
                hint="Give the project its token once more.",
                code="pull_request_unauthorized",
            )
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "User-Agent": "farhand",
            "X-GitHub-Api-Version": _API_VERSION,
        }
        self._repo = repo
        self._pulls = f"/repos/{quote(repo.owner)}/{quote(repo.name)}/pulls"
        self._http = PinnedHttp(repo.api, headers, allowed=settings.allowed_repo_hosts, renew=renew)
        self._failures = Failures(f"{repo.owner}/{repo.name}", token)

    def find(self, head: str) -> PullRequest | None:
        query = {
            "head": f"{self._repo.owner}:{head}",
            "state": "all",
            "sort": "created",
            "direction": "desc",
            "per_page": str(_PAGE),
        }
        listed = self._json(self._http.send("GET", self._pulls, query=query), 200)
        if not isinstance(listed, list):
            raise _garbled()
        # A filter that GitHub does not understand is passed over, and everything listed.
        found = [_parsed(item) for item in listed if self._is_from(item, head)]
        return next((one for one in found if one.state == "open"), found[0] if found else None)

    def open(self, new: NewPullRequest) -> PullRequest:
        fields = {"title": new.title, "body": new.body, "head": new.head, "base": new.base}
        answer = self._http.send("POST", self._pulls, body={**fields, "draft": True})
        if drafts_are_unknown(answer):
            answer = self._http.send("POST", self._pulls, body=fields)
        if exists_already(answer):
            found = self.find(new.head)
            if found is None or found.state != "open":
                raise HostBusyError("GitHub says that there is a pull request already, and does not list it yet")
            return found
        return _parsed(self._json(answer, 201))

    def update(self, number: int, *, body: str) -> PullRequest:
        return _parsed(self._json(self._http.send("PATCH", f"{self._pulls}/{number}", body={"body": body}), 200))

    def _is_from(self, item: Any, head: str) -> bool:
        try:
            whose = item["head"]["repo"]  # null once a fork is deleted
            name = f"{self._repo.owner}/{self._repo.name}".lower()
            return bool(item["head"]["ref"] == head and whose and whose["full_name"].lower() == name)
        except (KeyError, TypeError, AttributeError):
            raise _garbled() from None

    def _json(self, answer: Answer, status: int) -> Any:
        if answer.status != status:
            raise self._failures.of(answer)
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError):
            raise _garbled() from None


def _parsed(item: Any) -> PullRequest:
    try:
        merged = item.get("merged_at") is not None or item.get("merged") is True
        found = PullRequest(
            number=int(item["number"]),
            url=str(item["html_url"]),
            state="merged" if merged else "open" if item["state"] == "open" else "closed",
            body=str(item["body"] or ""),
            head_sha=str(item["head"]["sha"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _garbled() from None
    if not found.url.startswith(("https://", "http://")) or len(found.url) > _MAX_URL_CHARS or not found.url.isascii():
        raise _garbled()
    return found


def _garbled() -> HostBusyError:
    return HostBusyError("GitHub's answer is not what its REST API describes", code="pull_request_host_garbled")
