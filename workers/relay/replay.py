"""A recording in place of a model: the responses of one task, played again step by step.

The file is what `GET /v1/tasks/{id}/recording` serves. The tools run for real; only the model's words are old.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from infra.errors import TaskFailedError
from workers.relay.assemble import StreamEvent, stream_events

_WORDS = re.compile(r"\s*\S+\s*")
_WORDS_A_DELTA = 6


class RecordedResponse(BaseModel):
    content: list[dict[str, Any]]
    stop_reason: str
    usage: dict[str, Any] = {}


class RecordedTurn(BaseModel):
    user_turn: dict[str, Any] | None = None
    response: RecordedResponse


class Recording(BaseModel):
    """`steps[n - 1]` is what the model answered in step n."""

    version: int
    model: str = ""
    prompt: str = ""
    steps: list[RecordedTurn]


class Replay:
    """Plays one recording."""

    def __init__(self, path: Path) -> None:
        try:
            self._recording = Recording.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise TaskFailedError(
                f"the recording {path.name} can't be read: {error}",
                hint="Download it again from the task, or choose another model.",
                code="bad_recording",
            ) from None

    def stream(self, step: int, *, model: str) -> Generator[StreamEvent]:
        """The events of one step. Raises TaskFailedError (`recording_exhausted`) past its end."""
        if step > len(self._recording.steps):
            raise TaskFailedError(
                f"the recording has {len(self._recording.steps)} steps, the task asks for step {step}",
                hint="The repository differs from the recorded one, or messages were added. Use a real model.",
                code="recording_exhausted",
            )
        response = self._recording.steps[step - 1].response.model_dump()
        for event in stream_events(response, model=model, message_id=f"replay_{step}"):
            yield from _word_by_word(event)


def _word_by_word(event: StreamEvent) -> Iterator[StreamEvent]:
    """Text in pieces of a few words, so that a replay shows what a live stream shows."""
    delta = event.get("delta", {})
    if delta.get("type") != "text_delta":
        yield event
        return
    words = _WORDS.findall(delta["text"]) or [delta["text"]]
    for start in range(0, len(words), _WORDS_A_DELTA):
        piece = "".join(words[start : start + _WORDS_A_DELTA])
        yield {**event, "delta": {**delta, "text": piece}}
