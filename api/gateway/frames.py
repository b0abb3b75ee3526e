"""Every frame of the stream `farhand.v1` as a model. `docs/asyncapi.yaml` says the same; a test compares the two.

What clients send is parsed with these. What the gateway sends is built where it arises, because much of it is only
passed through; tests check it against these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import from_json

from api.actions import StartTask as StartTaskRequest
from api.fields import Line, Request, Secret, Text
from infra.errors import InvalidInputError

Json = dict[str, Any]
_MAX_LISTED_ERRORS = 200
RequestId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[ -~]+$")]


class InvalidFrameError(InvalidInputError):
    """Send JSON text frames as docs/asyncapi.yaml describes them."""

    code = "invalid_frame"

    def __init__(self, message: str, request_id: str | None) -> None:
        super().__init__(message)
        self.request_id = request_id


# ---- from clients ---------------------------------------------------------------------------------------------


class Auth(Request):
    """Log in: the first frame of a socket without ticket or cookie, and later to refresh without a reconnect."""

    type: Literal["auth"]
    token: Secret
    request_id: RequestId | None = None


class _Target(Request):
    task_id: UUID | None = None
    feed: Literal["tasks"] | None = None
    request_id: RequestId | None = None

    @model_validator(mode="after")
    def _one_target(self) -> _Target:
        if (self.task_id is None) == (self.feed is None):
            raise ValueError("give exactly one of task_id and feed")
        return self


class Subscribe(_Target):
    """Follow a task from the event behind `after`, the last `seq` that the client applied; or the feed."""

    type: Literal["subscribe"]
    after: int = Field(0, ge=0, le=2**63 - 1)


class Unsubscribe(_Target):
    type: Literal["unsubscribe"]


class StartTask(StartTaskRequest):
    """As `POST /v1/tasks`."""

    type: Literal["start_task"]
    request_id: RequestId

    def request(self) -> StartTaskRequest:
        return StartTaskRequest.model_validate(self.model_dump(exclude={"type", "request_id"}))


class SendMessage(Request):
    """As `POST /v1/tasks/{id}/messages`."""

    type: Literal["send_message"]
    task_id: UUID
    text: Text
    request_id: RequestId


class Answer(Request):
    """Answer a question of the agent."""

    type: Literal["answer"]
    task_id: UUID
    question_id: Annotated[Line, Field(min_length=1)]
    text: Text
    request_id: RequestId


class Cancel(Request):
    """As `POST /v1/tasks/{id}/cancel`."""

    type: Literal["cancel"]
    task_id: UUID
    request_id: RequestId


class Ping(Request):
    """Answered with `pong`: for clients that can't see WebSocket pings."""

    type: Literal["ping"]
    request_id: RequestId | None = None


Command = StartTask | SendMessage | Answer | Cancel
ClientFrame = Auth | Subscribe | Unsubscribe | Command | Ping
_CLIENT_FRAMES: TypeAdapter[ClientFrame] = TypeAdapter(Annotated[ClientFrame, Field(discriminator="type")])


def parse(text: str) -> ClientFrame:
    """Raises InvalidFrameError, which names what is wrong and, where it can be made out, the request."""
    try:
        return _CLIENT_FRAMES.validate_json(text)
    except ValidationError as error:
        raise InvalidFrameError(_said(error), _request_id(text)) from None


def _said(error: ValidationError) -> str:
    if error.error_count() > _MAX_LISTED_ERRORS:  # listing 100,000 unknown fields takes pydantic half a second
        return f"{error.error_count()} things are wrong with it: too many to name them"
    wrong = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        field = ".".join(str(part) for part in item["loc"][1:])
        message = item["msg"].removeprefix("Value error, ")[:500]  # an unknown `type` is repeated in it
        wrong.append(f"{field[:100]}: {message}" if field else message)
    return "; ".join(wrong)


def _request_id(text: str) -> str | None:
    try:
        found = from_json(text)["request_id"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return found if isinstance(found, str) and len(found) <= 200 else None


# ---- from the gateway -----------------------------------------------------------------------------------------


class ServerFrame(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hello(ServerFrame):
    """The socket is open. It is silent for `heartbeat_s` seconds at most before one side pings."""

    type: Literal["hello"]
    connection_id: str
    heartbeat_s: float


class Subscribed(ServerFrame):
    """Events of this task follow, from the one behind `after`. Another `epoch` than before: start again from 0."""

    type: Literal["subscribed"]
    task_id: UUID
    epoch: str
    last_seq: int
    status: str


class EventBody(ServerFrame):
    """One durable fact of a task, as `GET /v1/tasks/{id}/events` has it."""

    v: Literal[1]
    task_id: UUID
    seq: int
    type: str
    at: str
    data: Json


class Event(ServerFrame):
    type: Literal["event"]
    event: EventBody


class Task(ServerFrame):
    """The feed: a task as `GET /v1/tasks/{id}` has it."""

    type: Literal["task"]
    task: Json


class Part(ServerFrame):
    """A content block of the message."""

    index: int
    kind: Literal["text", "thinking", "tool_input"]


class Delta(ServerFrame):
    """The next piece of a part that is being written. `index` counts them from 0."""

    type: Literal["delta"]
    task_id: UUID
    message_id: str
    part: Part
    index: int
    text: str


class Partial(ServerFrame):
    """A part as far as it is written, in place of all that the client has of it. Delta number `next` follows."""

    type: Literal["partial"]
    task_id: UUID
    message_id: str
    part: Part
    text: str
    next: int


class Ack(ServerFrame):
    """The frame with this `request_id` was done; `task` is as it left it."""

    type: Literal["ack"]
    request_id: str
    task: Json | None = None


class Error(ServerFrame):
    """Something was refused, or a subscription (`task_id`) has ended. The socket stays open."""

    type: Literal["error"]
    code: str
    message: str
    hint: str
    request_id: str | None = None
    task_id: UUID | None = None


class Reconnect(ServerFrame):
    """The gateway is going away: connect again after `after_ms`. A close with 4200 follows."""

    type: Literal["reconnect"]
    after_ms: int


class Pong(ServerFrame):
    type: Literal["pong"]
    request_id: str | None = None


CLIENT_FRAMES: tuple[type[BaseModel], ...] = (
    Auth,
    Subscribe,
    Unsubscribe,
    StartTask,
    SendMessage,
    Answer,
    Cancel,
    Ping,
)
SERVER_FRAMES: tuple[type[ServerFrame], ...] = (
    Hello,
    Subscribed,
    Event,
    Task,
    Delta,
    Partial,
    Ack,
    Error,
    Reconnect,
    Pong,
)
