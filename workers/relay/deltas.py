"""Pieces of a half-written message, coalesced to one frame every 40 ms for each part."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self
from uuid import UUID

from infra.bus import Bus, Delta, Kind
from workers.relay.assemble import StreamEvent

COALESCE_S = 0.04
"""Fast enough that text seems to flow, slow enough that 50 tokens a second are 25 frames."""

_KINDS: dict[str, tuple[Kind, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool_input", "partial_json"),
}


class DeltaPublisher:
    """Publishes the deltas of one message. A context manager: leaving it sends what is left."""

    def __init__(self, bus: Bus, task_id: UUID, message_id: str) -> None:
        self._bus = bus
        self._task_id = task_id
        self._message_id = message_id
        self._part: tuple[int, Kind] | None = None
        self._pending: list[str] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"deltas {task_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._send()
            self._changed.notify_all()
        self._thread.join()

    def feed(self, event: StreamEvent) -> None:
        delta = event.get("delta") or {}
        if event["type"] != "content_block_delta" or delta.get("type") not in _KINDS:
            return
        kind, field = _KINDS[delta["type"]]
        part = (event["index"], kind)
        with self._changed:
            if part != self._part:
                self._send()
                self._part = part
            self._pending.append(delta[field])
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._closed or bool(self._pending))
                self._changed.wait_for(lambda: self._closed, COALESCE_S)
                self._send()

    def _send(self) -> None:
        text = "".join(self._pending)
        self._pending.clear()
        if text and self._part is not None:
            index, kind = self._part
            self._bus.publish_delta(Delta(self._task_id, self._message_id, index, kind, text))
