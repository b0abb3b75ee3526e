"""Redis: doorbells, half-written messages, tickets. Nothing here is the truth, and all of it may vanish.

Every key and channel, with its type, life and meaning:

    farhand:task:<task id>      channel            frames of one task: {"event": …} or {"delta": …}
    farhand:user:<user id>      channel            a task id: the row of that task changed
    farhand:cancel              channel            a task id: somebody wants that task to end
    farhand:partial:<task id>   hash, 10 min       <message id>|<index>|<kind> → [next delta index, text so far]
    farhand:ticket:<sha256>     string, 30 s       user id; read and deleted at once
    LIMITS:…                    by limits          attempts to log in

Celery keeps its own keys (`agents`, `system`, `_kombu.*`, `unacked*`) in the same database.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from agent_runtime.protocol import TERMINAL_EVENTS
from infra.crypto import fingerprint, new_secret
from infra.errors import ConfigurationError, UnavailableError
from infra.outbox import Outbox
from infra.tasks.log import Event

log = logging.getLogger(__name__)

TICKET_TTL_S = 30
PARTIAL_TTL_S = 600
SOCKET_TIMEOUT_S = 2.0

CANCEL_CHANNEL = "farhand:cancel"

Kind = Literal["text", "thinking", "tool_input"]

# One atomic call appends to the half-written part and publishes the delta with the index that it got, so that a
# late joiner who reads the part knows exactly which delta comes next.
_APPEND = """
local part = redis.call('HGET', KEYS[1], ARGV[1])
local next, text = 0, ''
if part then
  local decoded = cjson.decode(part)
  next, text = decoded[1], decoded[2]
end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({next + 1, text .. ARGV[2]}))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], cjson.encode({delta = {
  type = 'delta', task_id = ARGV[5], message_id = ARGV[6], index = next, text = ARGV[2],
  part = {index = tonumber(ARGV[7]), kind = ARGV[8]}}}))
return next
"""


def task_channel(task_id: UUID | str) -> str:
    return f"farhand:task:{task_id}"


def user_channel(user_id: UUID | str) -> str:
    return f"farhand:user:{user_id}"


def _partial_key(task_id: UUID | str) -> str:
    return f"farhand:partial:{task_id}"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one part (content block) of a message that is being written."""

    task_id: UUID
    message_id: str
    index: int
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class _Published:
    channel: str
    payload: str


@dataclass(frozen=True, slots=True)
class _Cleared:
    """The message is durable now, or void: its half-written parts go away before that event is published."""

    task_id: UUID


class Bus:
    """One process's connection to Redis. Publishing never blocks and never raises; see `Outbox`.

    Guarantee: what one process publishes arrives in that order, or not at all.
    """

    def __init__(self, url: str) -> None:
        if not url:
            raise ConfigurationError("FARHAND_REDIS_URL is not set")
        self.redis = connect(url)
        self._append = self.redis.register_script(_APPEND)
        self.outbox: Outbox[_Published | _Cleared | Delta] = Outbox("publisher", self._deliver)

    def publish_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if _replaces_partials(event):
                self.outbox.put(_Cleared(event.task_id))
            self.outbox.put(_Published(task_channel(event.task_id), json.dumps({"event": event.as_json()})))
        for task_id, user_id in dict.fromkeys((event.task_id, event.user_id) for event in events):
            self.outbox.put(_Published(user_channel(user_id), str(task_id)))

    def publish_delta(self, delta: Delta) -> None:
        self.outbox.put(delta)

    def ring_cancel(self, task_id: UUID) -> None:
        self.outbox.put(_Published(CANCEL_CHANNEL, str(task_id)))

    def partials(self, task_id: UUID) -> Iterator[dict[str, Any]]:
        """The half-written parts of a task as `partial` frames, in order of part."""
        parts: dict[str, str] = self.redis.hgetall(_partial_key(task_id))  # type: ignore[assignment]
        for name, value in sorted(parts.items(), key=lambda item: _part_order(item[0])):
            message_id, index, kind = name.split("|")
            following, text = json.loads(value)
            yield {
                "type": "partial",
                "task_id": str(task_id),
                "message_id": message_id,
                "part": {"index": int(index), "kind": kind},
                "text": text,
                "next": following,
            }

    def issue_ticket(self, user_id: UUID) -> str:
        """A one-use ticket for the stream, good for TICKET_TTL_S. Raises UnavailableError."""
        ticket = new_secret()
        try:
            self.redis.set(f"farhand:ticket:{fingerprint(ticket)}", str(user_id), ex=TICKET_TTL_S)
        except redis.RedisError as error:
            raise UnavailableError(f"tickets need Redis, which does not answer: {error}") from error
        return ticket

    def redeem_ticket(self, ticket: str) -> UUID | None:
        """The user of a ticket, once. None for one that is used, expired or made up. Raises UnavailableError."""
        try:
            user_id = self.redis.getdel(f"farhand:ticket:{fingerprint(ticket)}")
        except redis.RedisError as error:
            raise UnavailableError(f"tickets need Redis, which does not answer: {error}") from error
        return UUID(str(user_id)) if user_id else None

    def _deliver(self, batch: list[_Published | _Cleared | Delta]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for item in batch:
            match item:
                case _Published(channel, payload):
                    pipeline.publish(channel, payload)
                case _Cleared(task_id):
                    pipeline.delete(_partial_key(task_id))
                case Delta():
                    self._append_delta(pipeline, item)
        pipeline.execute()

    def _append_delta(self, pipeline: Any, delta: Delta) -> None:
        task_id = str(delta.task_id)
        name = f"{delta.message_id}|{delta.index}|{delta.kind}"
        args: list[Any] = [name, delta.text, PARTIAL_TTL_S, task_channel(task_id), task_id, delta.message_id]
        self._append(keys=[_partial_key(task_id)], args=[*args, delta.index, delta.kind], client=pipeline)


def connect(url: str) -> redis.Redis:
    """A client whose calls end within SOCKET_TIMEOUT_S and try a broken connection once again.

    Not one that is too slow: it may have done what it was asked, and a delta would be published twice.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 1, (redis.ConnectionError,)),
    )


def _replaces_partials(event: Event) -> bool:
    """A user's message does not: the agent's may go on being written while it arrives."""
    if event.type == "message":
        return bool(event.data["role"] == "assistant")
    return event.type == "task_resumed" or event.type in TERMINAL_EVENTS


def _part_order(name: str) -> tuple[list[int], int]:
    message_id, index, _ = name.split("|")
    return [int(number) for number in message_id.split(".")], int(index)
