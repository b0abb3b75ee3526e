"""The shapes of answers, for the OpenAPI document. A test holds what the handlers really send to them."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from infra.projects import PullRequestMode
from infra.tasks.states import Status

T = TypeVar("T")


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Page(Answer, Generic[T]):
    """One page of a list; `next` is the cursor of the following one, null on the last."""

    items: list[T]
    next: str | None


class Me(Answer):
    id: str
    email: str
    is_admin: bool
    created_at: str


class Session(Answer):
    """`expires_in` seconds of the access token. The refresh token is good once.

    With cookies there is a `csrf_token`; a session that was refreshed by its cookie shows no other token to the page.
    """

    access_token: str | None = None
    refresh_token: str | None = None
    token_type: Literal["Bearer"]
    expires_in: int
    csrf_token: str | None = None


class Token(Answer):
    """An API token, without the token."""

    id: str
    name: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewToken(Token):
    """`token` is shown this once."""

    token: str


class Invite(Answer):
    """`code` is shown this once; it registers one account."""

    id: str
    code: str
    expires_at: str


class Ticket(Answer):
    """Good once, for `expires_in` seconds, as `?ticket=` of the stream."""

    ticket: str
    expires_in: int


class Failure(Answer):
    code: str
    message: str
    hint: str


class ImageCheck(Answer):
    """What a worker has found of a project's image: `refused` says in `error` why its tasks will fail."""

    state: Literal["checking", "ready", "refused"]
    error: Failure | None


class Project(Answer):
    """A repository. Its git token and its secrets are never shown, only whether there is one, and their names.

    `image` null: the deployment's own. `image_check` is null then too.
    """

    id: str
    repo_url: str
    name: str
    git_username: str | None
    has_git_token: bool
    egress: Literal["none", "registries", "open"] | list[str]
    pull_request: PullRequestMode
    image: str | None
    image_check: ImageCheck | None
    setup_script: str | None
    variables: dict[str, str]
    secret_names: list[str]
    created_at: str


class PullRequest(Answer):
    url: str
    number: int


class Task(Answer):
    """`pull_request_requested_at` is set while its pull request waits to be opened or brought up to date."""

    id: str
    project_id: str
    repo_url: str
    prompt: str
    status: Status
    model: str
    base_branch: str | None
    branch: str
    head_sha: str | None
    attempt: int
    last_seq: int
    budget_usd: float
    spent_usd: float
    final_message: str | None
    pull_request: PullRequest | None
    pull_request_requested_at: str | None
    error: Failure | None
    created_at: str
    started_at: str | None
    completed_at: str | None


class Event(Answer):
    """A durable fact of a task. Ignore types that you do not know."""

    v: Literal[1]
    task_id: str
    seq: int
    type: str
    at: str
    data: dict[str, Any]


class Message(Answer):
    id: str
    role: Literal["user", "assistant"]
    text: str
    step: int | None
    created_at: str


class ToolCall(Answer):
    """`output` is null until there is a result."""

    call_id: str
    step: int
    index: int
    tool_name: str
    input: dict[str, Any]
    output: str | None
    is_error: bool | None
    truncated: bool | None
    duration_ms: int | None
    tree: str | None
    created_at: str
    finished_at: str | None


class EgressConnection(Answer):
    """A connection that a sandbox made through its proxy, or was refused. `host` is as asked for.

    `reason`: how it ended (`done`, or a code), null while it is open or when its worker died. `connections`: how many
    this one stands for; more than 1 only for refusals that were too many to be recorded one by one.
    """

    id: str
    attempt: int
    host: str
    port: int
    address: str | None
    method: Literal["CONNECT", "HTTP", ""]
    decision: Literal["allowed", "refused"]
    reason: str | None
    bytes_up: int
    bytes_down: int
    connections: int
    started_at: str
    ended_at: str | None


class Diff(Answer):
    """What a task changed, against `base_sha`. `head_sha` is what was pushed, null if nothing was."""

    diff: str
    files_changed: int
    insertions: int
    deletions: int
    base_sha: str | None
    head_sha: str | None


class RecordedStep(Answer):
    user_turn: dict[str, Any] | None
    response: dict[str, Any]


class Recording(Answer):
    """Put it as `<name>.json` into FARHAND_RECORDINGS, and `model: replay:<name>` plays it."""

    version: Literal[1]
    model: str
    prompt: str
    steps: list[RecordedStep]


class UsageOfDay(Answer):
    day: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    cost_usd: float


class Usage(Page[UsageOfDay]):
    """Of each UTC day and model. `cost_usd` is the sum of all."""

    cost_usd: float


class Health(Answer):
    status: Literal["ok"]
