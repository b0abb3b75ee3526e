"""What one reply of the model's service may take, looked at on every piece that arrives.

A read that is silent for too long times out by itself; a service (or a proxy before it) that sends comments, or a line
without an end, is never silent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2

from workers.relay.failures import TryFailedError

MAX_EVENT_BYTES = 4 * 2**20
"""One event is a delta of some words, or one block; the largest answers come in tens of thousands of events."""

MAX_REPLY_BYTES = 128 * 2**20
"""128,000 tokens of answer, one an event of 200 bytes, are 26 MB."""

_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")


class BoundedReply:
    """The body of a response, as far as the SDK's decoder reads it: `iter_bytes`."""

    def __init__(self, response: httpx2.Response, deadline: float) -> None:
        self._response = response
        self._deadline = deadline

    def iter_bytes(self) -> Iterator[bytes]:
        """The body in pieces. Raises TryFailedError when it takes too long, or it or one event is too large."""
        whole = event = 0
        for piece in self._response.iter_bytes():
            time_left(self._deadline, accepted=True)
            whole += len(piece)
            ended = max(piece.rfind(blank) for blank in _BLANK_LINES)
            event = event + len(piece) if ended < 0 else len(piece) - ended
            if event > MAX_EVENT_BYTES or whole > MAX_REPLY_BYTES:
                raise TryFailedError("the model's service sent more than any answer has", accepted=True)
            yield piece


def time_left(deadline: float, *, accepted: bool) -> float:
    """Seconds. Raises TryFailedError when there are none; `accepted`: the provider may have begun to work on it."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TryFailedError("the model did not finish within the deadline", accepted=accepted)
    return left
