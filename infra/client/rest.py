"""REST: one method for each thing that can be asked of a deployment. Answers are the JSON of the API, as it stands."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from infra.client.stream import Frame, frames
from infra.errors import (
    ConflictError,
    FarhandError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

Json = dict[str, Any]

TIMEOUT_S = 30.0
PATIENCE_S = 10.0
MAX_EGRESS_RECORDS = 100_000
MAX_PROJECTS = 10_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ApiError(FarhandError):
    """Look into the log of the deployment's API."""

    code = "api_error"


_KINDS: dict[int, type[FarhandError]] = {
    400: InvalidInputError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidInputError,
    415: InvalidInputError,
    422: InvalidInputError,
    429: UnavailableError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


class Client:
    """Talks to the deployment at `server` (its origin) as the owner of `token`.

    Every method raises UnavailableError when nothing answers there, and the FarhandError that fits the status, with
    the code and hint of the answer, when it refuses.
    """

    def __init__(self, server: str, token: str) -> None:
        parts = urlsplit(server)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInputError(
                f"{server!r} is not the address of a server",
                hint="An address looks like https://farhand.example or http://127.0.0.1:8000.",
                code="server_invalid",
            )
        self.server = server.rstrip("/")
        self._token = token
        # A proxy of the environment is not on the way to this machine.
        self.direct = parts.hostname in _LOOPBACK
        self._http = httpx.Client(
            base_url=self.server,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
            trust_env=not self.direct,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def create_project(self, **project: object) -> Json:
        """`repo_url`, and what the repo needs: `git_username`, `git_token`, `egress`, `image`, `secrets` …"""
        return self._json("POST", "/v1/projects", json={k: v for k, v in project.items() if v is not None})

    def projects(self) -> list[Json]:
        """Newest first."""
        return self._list("/v1/projects", limit=MAX_PROJECTS)

    def change_project(self, project_id: str, **changes: object) -> Json:
        """What is left out stays; None takes away."""
        return self._json("PATCH", f"/v1/projects/{project_id}", json=changes)

    def submit(self, **task: object) -> Json:
        """Send a task: `repo_url` or `project_id`, `prompt`, `base_branch`, `model`, `budget_usd`; None is left out."""
        given = {name: value for name, value in task.items() if value is not None}
        return self._json("POST", "/v1/tasks", json=given, headers={"Idempotency-Key": str(uuid4())})

    def task(self, task_id: str) -> Json:
        return self._json("GET", f"/v1/tasks/{task_id}")

    def tasks(self, *, limit: int = 50, status: str | None = None) -> list[Json]:
        """Newest first, at most `limit`."""
        return self._list("/v1/tasks", limit=limit, status=status)

    def events(self, task_id: str, *, after: int = 0) -> Iterator[Json]:
        """The events with `seq > after` that are there now, in order."""
        while page := self._json("GET", f"/v1/tasks/{task_id}/events", params={"after": after})["items"]:
            yield from page
            after = page[-1]["seq"]

    def diff(self, task_id: str) -> str:
        """What the task changed so far, as a unified diff."""
        return self._send("GET", f"/v1/tasks/{task_id}/diff", headers={"Accept": "text/x-diff"}).text

    def diff_and_figures(self, task_id: str) -> Json:
        """The same as text in JSON, with the number of files and lines, and the commits that it lies between."""
        return self._json("GET", f"/v1/tasks/{task_id}/diff", headers={"Accept": "application/json"})

    def egress(self, task_id: str) -> list[Json]:
        """What its sandboxes connected to, refusals included, oldest first."""
        return self._list(f"/v1/tasks/{task_id}/egress", limit=MAX_EGRESS_RECORDS)

    def recording(self, task_id: str) -> Json:
        """The model's responses of a task, to be played again as `replay:<name>`."""
        return self._json("GET", f"/v1/tasks/{task_id}/recording")

    def send_message(self, task_id: str, text: str) -> Json:
        return self._json("POST", f"/v1/tasks/{task_id}/messages", json={"text": text})

    def cancel(self, task_id: str) -> Json:
        return self._json("POST", f"/v1/tasks/{task_id}/cancel", json={})

    def retry(self, task_id: str) -> Json:
        return self._json("POST", f"/v1/tasks/{task_id}/retry", json={})

    def request_pull_request(self, task_id: str) -> Json:
        return self._json(
            "POST", f"/v1/tasks/{task_id}/pull-request", json={}, headers={"Idempotency-Key": str(uuid4())}
        )

    def stream(self, task_id: str, *, after: int = 0, tick_s: float | None = None) -> Iterator[Frame]:
        """The task as it happens, from event `after` + 1 until it has ended. See `infra.client.stream.frames`."""
        url = f"ws{self.server.removeprefix('http')}/v1/stream"
        return frames(url, self._token, task_id, after=after, tick_s=tick_s, direct=self.direct)

    def _list(self, path: str, *, limit: int, **query: str | None) -> list[Json]:
        given: dict[str, Any] = {name: value for name, value in query.items() if value is not None}
        items: list[Json] = []
        cursor: str | None = None
        while len(items) < limit:
            page = given | {"limit": min(limit - len(items), 100)} | ({"cursor": cursor} if cursor else {})
            answer = self._json("GET", path, params=page)
            items += answer["items"]
            cursor = answer["next"]
            if cursor is None:
                break
        return items

    def _json(self, method: str, path: str, **request: Any) -> Json:
        response = self._send(method, path, **request)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(f"{self.server} answered with something else than JSON: is it a Farhand deployment?")
        return answer

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """What can be repeated without harm is, while the deployment says that it is back in a moment."""
        repeatable = method == "GET" or "Idempotency-Key" in request.get("headers", {})
        give_up = time.monotonic() + PATIENCE_S
        while True:
            response = self._send_once(method, path, **request)
            wait_s = _asked_to_wait(response)
            if wait_s is None or not repeatable or time.monotonic() + wait_s > give_up:
                break
            time.sleep(wait_s)
        if response.is_error:
            raise _refusal(response)
        return response

    def _send_once(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise UnavailableError(
                f"nothing answers at {self.server}: {str(error) or type(error).__name__}",
                hint="Is it running (`farhand up`)? Is --server or FARHAND_SERVER right?",
            ) from None


def _asked_to_wait(response: httpx.Response) -> float | None:
    """Seconds of the Retry-After of a 503, as when Postgres restarts; None for every other answer."""
    given = response.headers.get("Retry-After", "")
    return float(given) if response.status_code == 503 and given.isdecimal() else None


def _refusal(response: httpx.Response) -> FarhandError:
    """The error behind a problem document, or behind whatever else a proxy on the way answers."""
    kind = _KINDS.get(response.status_code, ApiError)
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return kind(f"the server answered {response.status_code} {response.reason_phrase}")
    message = problem.get("detail") or problem.get("message") or problem.get("title") or response.reason_phrase
    return kind(str(message), hint=problem.get("hint"), code=problem.get("code"))
