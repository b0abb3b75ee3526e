"""GitHub's REST API for pull requests on loopback, as its published description says, with faults.

with GitHubStandIn(git_host, token="secret") as github:
    github.inject("POST", Fault(status=502))
    …
    assert github.pulls("owner/name") == [...]
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote

from tests.standin.gitserver import GitServer
from tests.standin.loopback import LoopbackHandler, LoopbackServer
from tests.standin.request_log import RequestLog

MAX_BODY_CHARS = 65_536
Json = dict[str, Any]


@dataclass
class Fault:
    """What happens to a request in place of, or with `afterwards` after, what it asked for.

    hold: no answer until `released`, then the right one. cut: the connection breaks. answer: this status and body.
    """

    kind: Literal["answer", "cut", "hold"] = "answer"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Json | list[Any] = b""
    afterwards: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    repo: str = ""
    """Of this repository alone, as `owner/name`; empty: of any."""
    reached: threading.Event = field(default_factory=threading.Event)
    """Set when a request has met it."""


@dataclass
class GitHubRequest:
    """One request; `status` is None until it is answered. `done`: what it asked for has happened."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    body: Any = None
    status: int | None = None
    done: bool = False
    arrived_at: float = field(default_factory=time.monotonic)


class GitHubStandIn(LoopbackServer):
    """Knows the repositories of `git_host`, under the names that they have there: `owner/name`."""

    def __init__(self, git_host: GitServer, *, token: str) -> None:
        self.git_host = git_host
        self.token = token
        self.drafts = True
        self.log: RequestLog[GitHubRequest] = RequestLog()
        self.lock = threading.RLock()
        self._pulls: list[Json] = []
        self._faults: dict[str, list[Fault]] = {}
        super().__init__(_Handler)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            for faults in self._faults.values():
                for fault in faults:
                    fault.released.set()
        self.stop()

    @property
    def requests(self) -> list[GitHubRequest]:
        return self.log.snapshot()

    def sent(self, method: str) -> list[GitHubRequest]:
        return [request for request in self.requests if request.method == method]

    def wait_until(self, reached: Callable[[list[GitHubRequest]], bool], timeout: float = 30.0) -> list[GitHubRequest]:
        """The requests once `reached(requests)`. Raises TimeoutError."""
        return self.log.wait_until(reached, timeout)

    def inject(self, method: str, fault: Fault, times: int = 1) -> Fault:
        """Let the next requests with this method meet a fault."""
        with self.lock:
            self._faults.setdefault(method, []).extend([fault] * times)
        return fault

    def clear(self) -> None:
        """No faults any more."""
        with self.lock:
            self._faults.clear()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            waiting = self._faults.get(method, [])
            found = next((fault for fault in waiting if f"/repos/{fault.repo}" in path), None)
            if found is not None:
                waiting.remove(found)
            return found

    def pulls(self, repo: str) -> list[Json]:
        """As GitHub would show them now, oldest first."""
        with self.lock:
            return [self.shown(pull) for pull in self._pulls if pull["repo"] == repo]

    def change(self, repo: str, number: int, **fields: Any) -> None:
        """As people do in the browser: `state="closed"`, `merged_at=…`, `body=…`."""
        with self.lock:
            self._find(repo, number).update(fields)

    def merge(self, repo: str, number: int) -> None:
        head = self.pulls(repo)[number - 1]["head"]["sha"]
        self.change(repo, number, state="closed", merged_at=datetime.now(UTC).isoformat(), merged_head=head)

    # ---- what the API does ---------------------------------------------------------------------------------------

    def listed(self, repo: str, query: dict[str, str]) -> list[Json]:
        state, head = query.get("state", "open"), query.get("head", "")
        shown = [pull for pull in self.pulls(repo) if state in ("all", pull["state"])]
        if ":" in head:  # else it is passed over
            shown = [pull for pull in shown if pull["head"]["label"].lower() == head.lower()]
        if query.get("direction") == "desc" or (query.get("sort", "created") == "created" and "direction" not in query):
            shown.reverse()
        return shown[: int(query.get("per_page", 30))]

    def made(self, repo: str, given: Json) -> tuple[int, Json]:
        """Status and body of the answer."""
        refs = self.git_host.refs(repo)
        head, base = (refs.get(f"refs/heads/{given.get(name)}") for name in ("head", "base"))
        wrong = self._wrong(repo, given, head, base)
        if wrong:
            return 422, _unprocessable(wrong)
        with self.lock:
            pull = {
                "repo": repo,
                "number": len([other for other in self._pulls if other["repo"] == repo]) + 1,
                "state": "open",
                "merged_at": None,
                "draft": bool(given.get("draft")),
                **{name: given.get(name) for name in ("title", "body", "head", "base")},
            }
            self._pulls.append(pull)
            return 201, self.shown(pull)

    def edited(self, repo: str, number: int, given: Json) -> tuple[int, Json]:
        if len(given.get("body") or "") > MAX_BODY_CHARS:
            return 422, _unprocessable([_TOO_LONG])
        with self.lock:
            try:
                pull = self._find(repo, number)
            except LookupError:
                return 404, NOT_FOUND
            pull.update({name: given[name] for name in ("title", "body", "state", "base") if name in given})
            return 200, self.shown(pull)

    def shown(self, pull: Json) -> Json:
        owner = pull["repo"].partition("/")[0]
        sha = pull.get("merged_head") or self.git_host.refs(pull["repo"]).get(f"refs/heads/{pull['head']}", "0" * 40)
        side = {"repo": {"full_name": pull["repo"]}, "user": {"login": owner}}
        return {
            "url": f"{self.base_url}/repos/{pull['repo']}/pulls/{pull['number']}",
            "html_url": f"{self.git_host.base_url}/{pull['repo']}/pull/{pull['number']}",
            **{name: pull[name] for name in ("number", "state", "title", "body", "draft", "merged_at")},
            "head": {"ref": pull["head"], "label": f"{owner}:{pull['head']}", "sha": sha, **side},
            "base": {"ref": pull["base"], "label": f"{owner}:{pull['base']}", **side},
        }

    def _wrong(self, repo: str, given: Json, head: str | None, base: str | None) -> list[Json]:
        if head is None or base is None:
            missing = "head" if head is None else "base"
            return [{"resource": "PullRequest", "field": missing, "code": "invalid"}]
        if head == base:
            return [_custom(f"No commits between {given['base']} and {given['head']}")]
        if given.get("draft") and not self.drafts:
            return [_custom("Draft pull requests are not supported in this repository.")]
        if len(given.get("body") or "") > MAX_BODY_CHARS:
            return [_TOO_LONG]
        with self.lock:
            same = [
                pull
                for pull in self._pulls
                if (pull["repo"], pull["head"], pull["base"], pull["state"])
                == (repo, given["head"], given["base"], "open")
            ]
        owner = repo.partition("/")[0]
        return [_custom(f"A pull request already exists for {owner}:{given['head']}.")] if same else []

    def _find(self, repo: str, number: int) -> Json:
        found = [pull for pull in self._pulls if (pull["repo"], pull["number"]) == (repo, number)]
        if not found:
            raise LookupError(number)
        return found[0]


NOT_FOUND = {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}
BAD_CREDENTIALS = {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"}
_TOO_LONG = {
    "resource": "Issue",
    "code": "custom",
    "field": "body",
    "message": "body is too long (maximum is 65536 characters)",
}


def _custom(message: str) -> Json:
    return {"resource": "PullRequest", "code": "custom", "message": message}


def _unprocessable(errors: list[Json]) -> Json:
    return {
        "message": "Validation Failed",
        "errors": errors,
        "documentation_url": "https://docs.github.com/rest/pulls/pulls#create-a-pull-request",
        "status": "422",
    }


_JSON = {"Content-Type": "application/json; charset=utf-8"}


class _Handler(LoopbackHandler):
    server: GitHubStandIn
    _date: str | None = None

    def do_GET(self) -> None:  # noqa: N802 - the base class looks for these names
        path, _, query = self.path.partition("?")
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        given = b"".join(self.body_pieces())
        request = GitHubRequest(
            self.command, unquote(path), asked, self.lower_headers(), json.loads(given) if given else None
        )
        self.server.log.add(request)
        fault = self.server.next_fault(self.command, request.path)
        if fault is not None and not fault.afterwards and not self._meets(request, fault):
            return
        status, body = self._answer(request)
        self.server.log.update(request, done=True)
        if fault is not None and fault.afterwards and not self._meets(request, fault):
            return
        self._reply(request, status, {}, json.dumps(body).encode())

    do_POST = do_PATCH = do_GET  # noqa: N815

    def _meets(self, request: GitHubRequest, fault: Fault) -> bool:
        """Whether the right answer is still to be given."""
        fault.reached.set()
        if fault.kind == "hold":
            self.hold(fault.released)
            return True
        if fault.kind == "cut":
            self.cut()
            return False
        body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
        self._reply(request, fault.status, fault.headers, body)
        return False

    def _answer(self, request: GitHubRequest) -> tuple[int, Any]:
        if request.headers.get("authorization") not in {f"{kind} {self.server.token}" for kind in ("Bearer", "token")}:
            return 401, BAD_CREDENTIALS
        if not request.headers.get("user-agent"):
            return 403, {"message": "Request forbidden by administrative rules."}
        match request.path.removeprefix("/api/v3").strip("/").split("/"):
            case ["repos", owner, name, "pulls", *rest] if self.server.git_host.path(f"{owner}/{name}").is_dir():
                return self._pulls(request, f"{owner}/{name}", rest)
        return 404, NOT_FOUND

    def _pulls(self, request: GitHubRequest, repo: str, rest: list[str]) -> tuple[int, Any]:
        match request.method, rest:
            case "GET", []:
                return 200, self.server.listed(repo, request.query)
            case "POST", []:
                return self.server.made(repo, request.body)
            case "PATCH", [number]:
                return self.server.edited(repo, int(number), request.body)
        return 404, NOT_FOUND

    def date_time_string(self, timestamp: float | None = None) -> str:
        """What the base class puts into the Date header."""
        return self._date or super().date_time_string(timestamp)

    def _reply(self, request: GitHubRequest, status: int, headers: dict[str, str], body: bytes) -> None:
        self.server.log.update(request, status=status)
        self._date = headers.get("Date")
        self.reply(status, _JSON | {name: value for name, value in headers.items() if name != "Date"}, body)
