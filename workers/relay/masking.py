"""Keeps a project's secrets out of what is written, published or sent to the model. Decision 14 says from what.

Masked is each secret as it stands, each of its longer lines, and its forms in JSON and in URLs. It is against
accidents: whoever can run a command can also say a secret backwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from agent_runtime.protocol import Failure
from infra.environment import MIN_SECRET_CHARS
from workers.relay.assemble import StreamEvent

MASK = "***"

_CUT = re.compile(r"\n\[… \d+ bytes cut …\]\n")
"""Where the runtime has left out the middle of an output."""
_LEAST_PART = 4
_MOST_PART = 4096
"""So much of a secret beside a cut is masked too, from the least to the most."""

_OPAQUE = frozenset({"signature", "id", "tool_use_id", "type"})
_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}

T = TypeVar("T")


class Mask:
    """The secrets of one attempt. Without any it changes nothing and costs nothing."""

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self._secrets = dict(secrets or {})
        # The longest first: a secret may begin as another one does.
        self.forms = sorted(set(_all_forms(self._secrets.values())), key=len, reverse=True)
        self._first = frozenset(form[0] for form in self.forms)
        self._pattern = re.compile("|".join(map(re.escape, self.forms))) if self.forms else None
        self._bytes = re.compile(b"|".join(re.escape(form.encode()) for form in self.forms)) if self.forms else None

    def text(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text

    def output(self, text: str) -> str:
        """Of a tool: where its middle was left out, a part of a secret may stand on both sides."""
        if not self._pattern:
            return text
        pieces, cuts = _CUT.split(self.text(text)), _CUT.findall(text)
        if len(pieces) != len(cuts) + 1:
            return self.text(text)
        last = len(cuts)
        for number, piece in enumerate(pieces):
            rest = piece if number == 0 else self._without_rest(piece)
            pieces[number] = rest if number == last else self._without_begun(rest)
        return "".join(part for pair in zip(pieces, [*cuts, ""], strict=True) for part in pair)

    def in_bytes(self, data: bytes) -> bytes:
        return self._bytes.sub(MASK.encode(), data) if self._bytes else data

    def deep(self, value: T) -> T:
        """JSON with every text in it masked, keys too; names of blocks and what only its maker can read stay."""
        return value if not self._pattern else self._deep(value)

    def failure(self, failure: Failure) -> Failure:
        return self.deep(failure)

    def found_in(self, data: bytes) -> list[str]:
        """Names of the secrets that stand in these bytes."""
        return [
            name
            for name, secret in self._secrets.items()
            if any(form.encode() in data for form in _all_forms([secret]))
        ]

    def stream(self, events: Iterable[StreamEvent]) -> Iterator[StreamEvent]:
        """The events of one message, masked. A delta may be shorter than what came, or come with the next one."""
        if not self._pattern:
            yield from events
            return
        held: dict[tuple[int, str], _Held] = {}
        for event in events:
            if event["type"] == "content_block_delta" and event["delta"].get("type") in _TEXTS:
                yield from _masked_delta(event, held, self)
                continue
            if event["type"] == "content_block_stop" or _is_signature(event):
                yield from _ends(event["index"], held)
            yield _unsigned(event, held) if _is_signature(event) else self.deep(event)

    def span(self, text: str) -> tuple[int, int]:
        """Where the first secret stands; the text's end where none does."""
        found = self._pattern.search(text) if self._pattern else None
        return found.span() if found else (len(text), len(text))

    def begun_at(self, text: str) -> int:
        """Where what could be the beginning of a secret begins; the text's length where nothing could."""
        longest = len(self.forms[0]) if self.forms else 0
        for position in range(max(0, len(text) - longest + 1), len(text)):
            if text[position] not in self._first:
                continue
            rest = text[position:]
            if any(form.startswith(rest) and form != rest for form in self.forms):
                return position
        return len(text)

    def _deep(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._deep(item) for item in value]
        if isinstance(value, dict):
            return {
                self.text(key): item if key in _OPAQUE and isinstance(item, str) else self._deep(item)
                for key, item in value.items()
            }
        return value

    def _without_begun(self, text: str) -> str:
        tail = text[-max(map(len, self.forms)) :]
        begun = self.begun_at(tail)
        return text if len(tail) - begun < _LEAST_PART else text[: len(text) - (len(tail) - begun)] + MASK

    def _without_rest(self, text: str) -> str:
        longest = 0
        for form in self.forms:
            for size in range(min(len(form) - 1, len(text), _MOST_PART), max(longest, _LEAST_PART - 1), -1):
                if text.startswith(form[-size:]):
                    longest = size
                    break
        return MASK + text[longest:] if longest else text


class _Held:
    """One block's text: what has come and may still become a secret."""

    def __init__(self, mask: Mask, kind: str) -> None:
        self.kind = kind
        self.changed = False
        self._mask = mask
        self._text = ""

    def take(self, text: str) -> str:
        """What can be said by now."""
        self._text += text
        said = []
        while True:
            start, end = self._mask.span(self._text)
            begun = self._mask.begun_at(self._text)
            if begun <= start:  # also where both are the text's end
                said.append(self._text[:begun])
                self._text = self._text[begun:]
                return "".join(said)
            said += [self._text[:start], MASK]
            self._text = self._text[end:]
            self.changed = True

    def end(self) -> str:
        text, self._text = self._text, ""
        masked = self._mask.text(text)
        self.changed = self.changed or masked != text
        return masked


def _masked_delta(event: StreamEvent, held: dict[tuple[int, str], _Held], mask: Mask) -> Iterator[StreamEvent]:
    kind = event["delta"]["type"]
    field = _TEXTS[kind]
    block = held.setdefault((event["index"], kind), _Held(mask, kind))
    text = block.take(event["delta"][field])
    if text:
        yield {**event, "delta": {**event["delta"], field: text}}


def _ends(index: int, held: dict[tuple[int, str], _Held]) -> Iterator[StreamEvent]:
    for (block, kind), rest in held.items():
        if block == index and (text := rest.end()):
            yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, _TEXTS[kind]: text}}


def _is_signature(event: StreamEvent) -> bool:
    return bool(event["type"] == "content_block_delta" and event["delta"].get("type") == "signature_delta")


def _unsigned(event: StreamEvent, held: dict[tuple[int, str], _Held]) -> StreamEvent:
    """A signature holds for the text as it was: thinking that was changed has none, and is not sent back."""
    thinking = held.get((event["index"], "thinking_delta"))
    if thinking is None or not thinking.changed:
        return event
    return {**event, "delta": {**event["delta"], "signature": ""}}


def _all_forms(secrets: Iterable[str]) -> Iterator[str]:
    for secret in secrets:
        for text in {secret, secret.strip(), *(line.strip() for line in secret.splitlines())}:
            if len(text) >= MIN_SECRET_CHARS:
                yield from (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
                yield from (quote(text), quote(text, safe=""), quote_plus(text))
