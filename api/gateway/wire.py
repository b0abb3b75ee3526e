"""From what Redis and Postgres say about a task to frames that are ready to be sent, shared by all subscribers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from api.gateway.framing import json_frame, text_frame
from api.gateway.parts import MessageId, PartFrame

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventFrame:
    """An event, on the wire as `{"type": "event", "event": …}`."""

    seq: int
    type: str
    message_id: MessageId | None
    """Of an assistant's message, else None."""
    data: bytes


def event_frame(event: Json) -> EventFrame:
    """`event` is in wire form. Raises KeyError, TypeError or ValueError when it is not."""
    return _event_frame(event, json_frame({"type": "event", "event": event}))


def decode(payload: str) -> EventFrame | PartFrame:
    """What `infra.bus` publishes on a task's channel. Raises KeyError, TypeError or ValueError for anything else."""
    message = json.loads(payload)
    if "event" in message:
        # The payload is the frame but for its type: no need to write the JSON, which may be large, a second time.
        return _event_frame(message["event"], text_frame('{"type":"event",' + payload[1:]))
    return _part_frame(message["delta"], "index")


def partial_frame(partial: Json) -> PartFrame:
    """A `partial` as `Bus.partials` gives it."""
    return _part_frame(partial, "next")


def _event_frame(event: Json, data: bytes) -> EventFrame:
    message_id = None
    if event["type"] == "message" and event["data"]["role"] == "assistant":
        message_id = _message_id(event["data"]["message_id"])
    return EventFrame(int(event["seq"]), event["type"], message_id, data)


def _part_frame(message: Json, index: str) -> PartFrame:
    part = message["part"]
    return PartFrame(
        message_id=_message_id(message["message_id"]),
        part=(int(part["index"]), part["kind"]),
        index=int(message[index]),
        data=json_frame(message),
    )


def _message_id(name: str) -> MessageId:
    return tuple(int(number) for number in name.split("."))
