"""What GitHub's refusals mean, as errors for a person: the statuses and bodies that its REST description names."""

from __future__ import annotations

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

from infra.errors import FarhandError
from workers.pull_requests.base import HostBusyError, HostRefusedError
from workers.pull_requests.pinned import Answer

MAX_WAIT_S = 3700.0
"""The longest wait that is sat out: a limit of so many requests an hour is over by then."""
LIMIT_REST_S = 60.0
"""GitHub's advice where it does not say how long."""
_MAX_DETAIL_CHARS = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_AGAIN = "; then ask for the pull request again."
_BETTER = "Give the project a token that may write pull requests (classic: `repo`; fine-grained: Pull requests, write)"
_SSO = -403

# By status: code, message, hint.
_REFUSALS = {
    401: (
        "pull_request_unauthorized",
        "GitHub does not accept the project's git token",
        f"It has expired or was revoked. {_BETTER}{_AGAIN}",
    ),
    403: ("pull_request_forbidden", "the project's git token may not do this on {repo}", _BETTER + _AGAIN),
    _SSO: (
        "pull_request_forbidden",
        "the project's git token is not authorized for the organization of {repo}",
        f"Authorize it for the organization's single sign-on, in GitHub's settings{_AGAIN}",
    ),
    404: (
        "pull_request_repo_unseen",
        "GitHub shows the project's git token no pull requests of {repo}",
        f"Check the repository's address. {_BETTER}{_AGAIN}",
    ),
    410: (
        "pull_request_gone",
        "{repo} takes no pull requests any more",
        f"Enable them in the repository's settings{_AGAIN}",
    ),
}


def exists_already(answer: Answer) -> bool:
    return answer.status == 422 and "pull request already exists" in _said(answer).lower()


def drafts_are_unknown(answer: Answer) -> bool:
    """Repositories of some plans have no drafts."""
    return answer.status == 422 and "draft pull request" in _said(answer).lower()


class Failures:
    """Makes errors of answers about one repository. The token is kept out of what they say."""

    def __init__(self, repo: str, token: str) -> None:
        self._repo = repo
        self._token = token

    def of(self, answer: Answer) -> FarhandError:
        """The error for an answer with a status that was not hoped for."""
        said = self._clean(_said(answer))
        if answer.status in {403, 429} and _is_limited(answer, said):
            return _limited(answer)
        if answer.status >= 500:
            return HostBusyError(f"GitHub failed with status {answer.status}: {said}")
        if 300 <= answer.status < 400:
            return HostRefusedError(
                f"GitHub knows {self._repo} under another address, and redirects are not followed",
                hint="The repository was renamed or moved: make a project of its new address and start a new task.",
                code="pull_request_redirected",
            )
        return self._refused(answer, said)

    def _refused(self, answer: Answer, said: str) -> FarhandError:
        if answer.status == 422:
            return self._unprocessable(answer, said)
        status = _SSO if answer.status == 403 and "x-github-sso" in answer.headers else answer.status
        if status not in _REFUSALS:
            return HostRefusedError(f"GitHub answered with status {status}: {said}")
        code, message, hint = _REFUSALS[status]
        return HostRefusedError(f"{message.format(repo=self._repo)}: {said}", hint=hint, code=code)

    def _unprocessable(self, answer: Answer, said: str) -> FarhandError:
        invalid = {error.get("field") for error in _errors(answer) if error.get("code") == "invalid"}
        if "no commits between" in said.lower():
            return HostRefusedError(
                f"there is nothing to open a pull request for: {said}",
                hint="The branch has no commit that its base branch does not have: was it merged already?",
                code="pull_request_empty",
            )
        if "head" in invalid:
            return HostRefusedError(
                "the task's branch is not there any more", hint="Retry the task with a message.", code="branch_gone"
            )
        if "base" in invalid:
            return HostRefusedError(
                "the branch that the task started from is not there any more",
                hint="Open the pull request by hand, to another branch.",
                code="base_branch_gone",
            )
        return HostRefusedError(f"GitHub refused the pull request: {said}")

    def _clean(self, said: str) -> str:
        """One bounded line."""
        plain = _CONTROL.sub(" ", said.replace(self._token, "***") if self._token else said)
        return " ".join(plain.split())[:_MAX_DETAIL_CHARS] or "no reason was given"


def _said(answer: Answer) -> str:
    """The message, and those of the single errors. Empty for what is no JSON."""
    body = _body(answer)
    listed = body.get("errors")
    texts = [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
    texts += [_told(error) for error in _errors(answer)]
    return "; ".join(filter(None, [str(body.get("message") or ""), *texts]))


def _told(error: dict[str, Any]) -> str:
    if error.get("message"):
        return str(error["message"])
    return " ".join(str(error[name]) for name in ("field", "code") if error.get(name))


def _errors(answer: Answer) -> list[dict[str, Any]]:
    listed = _body(answer).get("errors")
    return [error for error in listed if isinstance(error, dict)] if isinstance(listed, list) else []


def _body(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _is_limited(answer: Answer, said: str) -> bool:
    headers = answer.headers
    return (
        answer.status == 429
        or "retry-after" in headers
        or headers.get("x-ratelimit-remaining") == "0"
        or "rate limit" in said.lower()
    )


def _limited(answer: Answer) -> FarhandError:
    wait_s = _asked_wait(answer)
    if wait_s is not None and wait_s > MAX_WAIT_S:
        return HostRefusedError(
            f"GitHub limits the requests of the project's git token for {wait_s / 3600:.1f} hours more",
            hint="Ask for the pull request again after that.",
            code="pull_request_rate_limited",
        )
    return HostBusyError(
        "GitHub limits the requests of the project's git token", code="pull_request_rate_limited", wait_s=wait_s
    )


def _asked_wait(answer: Answer) -> float | None:
    """Seconds, by GitHub's own clock where it tells that. None: it does not say how long."""
    headers = answer.headers
    if (given := headers.get("retry-after", "")).isdecimal():
        return float(given)
    if headers.get("x-ratelimit-remaining") == "0" and (reset := headers.get("x-ratelimit-reset", "")).isdecimal():
        return max(1.0, float(reset) - _clock(headers.get("date", "")))
    return None


def _clock(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return time.time()
