"""The wire protocol between a sandbox and its worker, and the shape of events. The contract, first.

HTTP/1.1 over the Unix socket `<link>/host.sock`, one keep-alive connection. JSON bodies, UTF-8. The sandbox
asks, the worker answers; the worker never calls in. Every reply carries what the loop must know at once: whether
the task is cancelled and how many user messages are unread, as `cancel` and `unread` in a JSON body and as the
headers `Farhand-Cancel: 0|1` and `Farhand-Unread: <n>` on every reply, streams included.

    GET  /job           200 Job. Blocks until a task is assigned and its objects are in place; 202 = ask again.
    GET  /inbox         200 {"messages": [InboxMessage]}: the user's messages that no step contains yet.
    POST /v1/messages   Messages API body without `model`; header `Farhand-Step: <n>`, and `Farhand-Inbox: <id>,<id>`
                        for the user messages that the last turn contains. 200 = the Messages API's event stream.
                        The step is recorded before `message_stop` is forwarded: a stream that ends without it is
                        not recorded, ask again with the same step. A recorded step is answered from its record.
    POST /calls         Calls: the tool calls of a step, recorded before any of them starts.
    POST /results       one JSON line (Result), then the bytes of a git pack (none when the tree is unchanged).
    POST /setup/part    a piece of what the setup script left; header `Farhand-Offset: <n>` says where it belongs, and
                        0 begins anew. Only in an attempt that is to build, before its first step.
    POST /setup/done    SetupDone: all of it was sent. 200 = it is kept, and readable as `in/setup.tar`.
    POST /finish        Finish. 409 = there is an unread message (or an unrecorded result): the loop goes on.

A request is idempotent by (task, step, index, kind): a repeat answers 200 and changes nothing. Refusals are
`{"error": Failure, "cancel": …, "unread": …}`:

    400 the request is malformed                     a bug in the runtime: finish as failed
    402 the budget does not cover the call           finish as failed with that error
    409 see above
    410 this attempt no longer owns the task         exit at once, write nothing more
    422 the model refused the request for good       finish as failed with that error
    503 not now (worker suspended or starting)       try again, with backoff
    504 the model did not answer within the deadline finish as failed with that error
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, TypedDict

VERSION = 1
"""Raised when a worker and a sandbox of different versions could misunderstand each other."""

SOCKET = "host.sock"
EGRESS_SOCKET = "egress.sock"
"""Beside the other: the worker's HTTP proxy (CONNECT, and plain requests in absolute form)."""
EGRESS_PORT = 3128
"""Where commands in a container reach it, on 127.0.0.1. Elsewhere loopback is shared: there it is a free port."""

SETUP_ARCHIVE = "setup.tar"
"""Beside `objects`: what the project's setup script left, where the job says that it is kept."""

HEADER_OFFSET = "Farhand-Offset"
HEADER_STEP = "Farhand-Step"
HEADER_INBOX = "Farhand-Inbox"
HEADER_CANCEL = "Farhand-Cancel"
HEADER_UNREAD = "Farhand-Unread"

LINK_SILENCE_S = 120
"""A sandbox that could not reach its link for this long ends itself."""


class Failure(TypedDict):
    """Why something ended, for a person: a stable code, what happened, what to do about it."""

    code: str
    message: str
    hint: str


class StepRecord(TypedDict):
    """One recorded model call. The conversation is these, in order: `user_turn`, then `response` as assistant turn.

    `user_turn` is a Messages API message, or None where the model only went on (`pause_turn`).
    `response` has `content` (list of blocks as received), `stop_reason` and `usage`.
    """

    step: int
    user_turn: Optional[Dict[str, Any]]
    response: Dict[str, Any]


class RecordedCall(TypedDict):
    """A tool call of the last recorded step that was announced before its attempt ended.

    `output` is None when no result was recorded: the call was in flight, its outcome is unknown.
    """

    index: int
    tool_use_id: str
    output: Optional[str]
    is_error: bool


class InboxMessage(TypedDict):
    id: str
    text: str


class Workspace(TypedDict):
    """What to check out. `objects` below `in/` holds the packs, used as alternates, so no history is copied.

    base: commit the branch starts from; head: commit of the branch so far (== base at first);
    tree: tree to restore over it, from the last recorded result, or None.
    """

    base: str
    head: str
    tree: Optional[str]
    branch: str


class Agent(TypedDict):
    """An agent definition as the runtime needs it. `tools` are names that `agent_runtime.tools` knows."""

    name: str
    instructions: str
    tools: List[str]
    max_tokens: int


class Limits(TypedDict):
    """Bounds of one attempt. Seconds, bytes, counts."""

    max_steps: int
    wall_clock_s: float
    command_timeout_s: float
    max_command_timeout_s: float
    output_bytes: int
    pack_bytes: int
    file_bytes: int


class Setup(TypedDict):
    """The project's setup. `kept`: what it left is at hand; else the script is to be run, and that to be sent.

    `environment` is what the script gets: the project's variables, and none of its secrets.
    """

    kept: bool
    script: str
    environment: Dict[str, str]
    timeout_s: float


class SetupDone(TypedDict):
    """`not_kept` names files that are neither tracked nor ignored: these are not kept."""

    bytes: int
    sha256: str
    not_kept: List[str]


class Job(TypedDict):
    """`egress`: something may be reached through the link, so commands are told of the proxy.

    `environment`: what commands get besides, the project's variables and secrets. Nothing else of the sandbox does.
    """

    protocol: int
    task_id: str
    attempt: int
    workspace: Workspace
    steps: List[StepRecord]
    calls: List[RecordedCall]
    inbox: List[InboxMessage]
    agent: Agent
    limits: Limits
    egress: bool
    environment: Dict[str, str]
    setup: Optional[Setup]
    cancel: bool
    unread: int


class Call(TypedDict):
    index: int
    tool_use_id: str
    tool: str
    args: Dict[str, Any]


class Calls(TypedDict):
    step: int
    calls: List[Call]


class Result(TypedDict):
    """One tool result. `tree` is the work tree's id after the call; the pack holds what it has over `parent`.

    Both are None when the tool cannot change files. `left_out` names files that were too big to keep.
    """

    step: int
    index: int
    output: str
    is_error: bool
    truncated: bool
    duration_ms: int
    tree: Optional[str]
    parent: Optional[str]
    left_out: List[str]


class Finish(TypedDict):
    """How the loop ended: `error` is None for a completed task. `step` is the last recorded step (0: none)."""

    step: int
    final_message: str
    error: Optional[Failure]


def call_id(step: int, index: int) -> str:
    """Our name of a tool call, unique in its task and stable over resumes (the model's own ids are neither)."""
    return f"{step}.{index}"


def message_id(step: int, attempt_of_step: int) -> str:
    """Name of a message while it is written: a higher try of the same step voids the lower ones."""
    return f"{step}.{attempt_of_step}"


EVENT_FIELDS: Dict[str, tuple[str, ...]] = {
    "task_created": ("prompt", "repo_url", "model", "budget_usd"),
    "task_started": ("attempt", "worker", "sandbox"),
    "task_resumed": ("attempt", "step", "reason"),
    "thinking": ("message_id", "text", "agent_type"),
    "message": ("message_id", "role", "text", "stop_reason"),
    "tool_call": ("call_id", "step", "tool", "args"),
    "tool_result": ("call_id", "output", "truncated", "is_error", "duration_ms", "tree"),
    "build_progress": ("stage", "percent"),
    "usage": (
        "step",
        "model",
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "cost_usd",
        "spent_usd",
    ),
    "question": ("question_id", "text", "options"),
    "answer": ("question_id", "text"),
    "branch_pushed": ("branch", "sha", "files_changed", "insertions", "deletions"),
    "pull_request": ("url", "number"),
    "completed": ("final_message",),
    "failed": ("error",),
    "cancelled": ("by", "confirmed_dead_ms"),
    "error": ("code", "message"),
}
"""Every event type with exactly the fields of its `data`. Clients ignore types that they do not know."""

TERMINAL_EVENTS = frozenset({"completed", "failed", "cancelled"})
