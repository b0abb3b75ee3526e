"""What the model stand-in plays: trajectories, made of turns and of the ways in which a turn can go wrong.

A trajectory is a list. Each entry with `content` is a turn; which turn answers a request is the number of
assistant messages in that request, so that repeated, concurrent and resumed conversations need no bookkeeping.
An entry with `fault` stands *before* the turn that it spoils: it hits the first `times` requests for that turn
in each conversation (default 1, or "forever"), and then the turn follows. Conversations with the same first
message count as one. An entry may also be a function of the request that returns a turn.

Keys of a turn:
    content            blocks of the Messages API; `id` of a tool_use and `signature` of thinking are made up if missing
    stop_reason        default `tool_use` if there is such a block, else `end_turn`
    usage              input_tokens, output_tokens, cache_creation_input_tokens, cache_read_input_tokens
    delay_s            seconds before the first byte
    chunk_chars        characters in each delta (default 24)
    chunk_delay_s      seconds before each event after the first
    gate               held until `open_gate(name)`
    gate_after_events  where to hold: this many events are sent first (default 0: not even the headers)

A fault takes these keys too, and they override the turn's. Faults:
    status       an API error: `status`, `retry_after`, `type`, `message`
    cut          the connection breaks after `after_events`; with `clean` the reply just ends there, as if complete
    error_event  an SSE `error` event after `after_events`; `type` (default overloaded_error), `message`
    hang         not even headers, until the client leaves; hang_mid: the same after `after_events`
    slow         `chunk_delay_s` 0.2 unless given
    garbage      bytes that are no SSE after `after_events` (default 0), then the end
    comments     an SSE comment every 10 ms after `after_events`, until the client leaves
    endless      a line without an end after `after_events`, until the client leaves
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

type_of_status = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

Json = dict[str, Any]
TurnSpec = Mapping[str, Any] | Callable[[Json], Mapping[str, Any]]
FAULTS = {"status", "cut", "error_event", "hang", "hang_mid", "slow", "garbage", "comments", "endless"}
_MARK = re.compile(r"\[trajectory:([A-Za-z0-9_.-]+)\]")
_SPOILT_LAST_TURN = {"content": [{"type": "text", "text": "This answer does not arrive whole."}]}


class NoTurn(LookupError):  # noqa: N818 - it reads as what it is
    """The request asks for a turn that the trajectories do not have. The test's script is too short or misnamed."""


@dataclass(frozen=True)
class Turn:
    """One reply, with its manner of delivery. Field names are the keys described above."""

    content: list[Json]
    stop_reason: str
    usage: Json
    delay_s: float = 0.0
    chunk_chars: int = 24
    chunk_delay_s: float = 0.0
    gate: str | None = None
    gate_after_events: int = 0
    fault: str | None = None
    times: float = 1
    after_events: int = 3
    clean: bool = False
    status: int = 529
    retry_after: float | None = None
    type: str | None = None
    message: str = "The stand-in was told to fail."

    @property
    def error_type(self) -> str:
        if self.type:
            return self.type
        return type_of_status.get(self.status if self.fault == "status" else 529, "api_error")


_KNOWN_KEYS = {turn_field.name for turn_field in fields(Turn)}


def parse_turn(spec: Mapping[str, Any], ordinal: int) -> Turn:
    """`ordinal` is the turn's place in the conversation, for ids that differ between turns."""
    _check_keys(spec)
    content = [_complete_block(block, f"{ordinal}_{index}") for index, block in enumerate(spec["content"])]
    calls_tools = any(block["type"] == "tool_use" for block in content)
    usage = {"input_tokens": 100, "output_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    given = {
        "stop_reason": "tool_use" if calls_tools else "end_turn",
        **_defaults_of_fault(spec.get("fault")),
        **spec,
        "times": _times(spec),
        "content": content,
        "usage": usage | dict(spec.get("usage", {})),
    }
    return Turn(**given)


def _check_keys(spec: Mapping[str, Any]) -> None:
    if unknown := set(spec) - _KNOWN_KEYS:
        raise ValueError(f"a turn has no key {sorted(unknown)}; known: {sorted(_KNOWN_KEYS)}")
    if spec.get("fault", "cut") not in FAULTS:
        raise ValueError(f"there is no fault {spec['fault']!r}; known: {sorted(FAULTS)}")
    if "fault" not in spec and "content" not in spec:
        raise ValueError("an entry of a trajectory needs `content` or `fault`")


def _defaults_of_fault(fault: str | None) -> Json:
    if fault == "slow":
        return {"chunk_delay_s": 0.2}
    return {"after_events": 0} if fault == "garbage" else {}


def _times(spec: Mapping[str, Any]) -> float:
    times = spec.get("times", 1)
    return math.inf if times == "forever" else int(times)


def _complete_block(block: Mapping[str, Any], place: str) -> Json:
    if block["type"] == "tool_use":
        return {"id": f"toolu_{place}", **block}
    if block["type"] == "thinking":
        return {"signature": sign(str(block["thinking"])), **block}
    return dict(block)


def sign(thinking: str) -> str:
    """The signature that a thinking block must still carry when it is sent back."""
    return "standin-" + hashlib.sha256(thinking.encode()).hexdigest()


@dataclass
class _Step:
    faults: list[Mapping[str, Any]] = field(default_factory=list)
    turn: TurnSpec | None = None


class Trajectory:
    """A parsed trajectory. Raises ValueError where an entry has an unknown key or fault."""

    def __init__(self, name: str, entries: Sequence[TurnSpec]) -> None:
        self.name = name
        self._steps = [_Step()]
        for entry in entries:
            if callable(entry):
                self._end_step(entry)
                continue
            _check_keys(entry)
            if "fault" in entry:
                self._steps[-1].faults.append(entry)
            else:
                self._end_step(entry)

    def _end_step(self, turn: TurnSpec) -> None:
        self._steps[-1].turn = turn
        self._steps.append(_Step())

    def turn(self, request: Json, ordinal: int, asked_before: int) -> Turn:
        """The turn at `ordinal`, spoilt by the fault whose share `asked_before` falls into, if any.

        Raises NoTurn past the end.
        """
        step = self._steps[ordinal] if ordinal < len(self._steps) else _Step()
        spec = step.turn(request) if callable(step.turn) else step.turn
        for fault in step.faults:
            times = _times(fault)
            if asked_before < times:
                return parse_turn({**(spec or _SPOILT_LAST_TURN), **fault}, ordinal)
            asked_before -= int(times)
        if spec is None:
            raise NoTurn(f"trajectory {self.name!r} has {len(self._steps) - 1} turns, and turn {ordinal} was asked for")
        if "fault" in spec:
            spec = {**_SPOILT_LAST_TURN, **spec}
        return parse_turn(spec, ordinal)

    def pauses_at(self, ordinal: int) -> bool:
        turn = self._steps[ordinal].turn if ordinal < len(self._steps) else None
        return isinstance(turn, Mapping) and turn.get("stop_reason") == "pause_turn"


class Repertoire:
    """All trajectories of a server, found by the mark `[trajectory:NAME]` in a conversation's first user message."""

    def __init__(self, trajectories: Mapping[str, Sequence[TurnSpec]], default: str | None) -> None:
        self._by_name = {name: Trajectory(name, entries) for name, entries in trajectories.items()}
        self._default = next(iter(trajectories)) if default is None and len(trajectories) == 1 else default or "default"

    def find(self, messages: Sequence[Json]) -> Trajectory:
        mark = _MARK.search(first_user_text(messages))
        name = mark[1] if mark else self._default
        if name not in self._by_name:
            raise NoTurn(f"there is no trajectory {name!r}; known: {sorted(self._by_name)}")
        return self._by_name[name]


def first_user_text(messages: Sequence[Json]) -> str:
    content = next((message["content"] for message in messages if message["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "\n".join(str(block.get("text", "")) for block in content)


def conversation_key(messages: Sequence[Json]) -> str:
    """Conversations with the same first message count as one: repeats of a request must be told from each other."""
    return hashlib.sha256(json.dumps(messages[:1], sort_keys=True).encode()).hexdigest()
