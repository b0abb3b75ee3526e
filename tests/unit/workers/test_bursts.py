"""Events of a model's stream, as many at a time as there are."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from infra.errors import UnavailableError
from workers.relay.link import bursts

START, DELTA, STOP = ({"type": name} for name in ("message_start", "content_block_delta", "message_stop"))


def filled(*items: Any) -> queue.SimpleQueue[Any]:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        events.put(item)
    return events


def test_what_came_together_goes_on_together_and_the_end_ends_it() -> None:
    assert list(bursts(filled(START, DELTA, DELTA, STOP, "never read"))) == [[START, DELTA, DELTA, STOP]]


def test_what_comes_later_is_not_waited_for() -> None:
    events = filled(START)
    stream = bursts(events)
    assert next(stream) == [START]
    events.put(DELTA)
    events.put(STOP)
    assert next(stream) == [DELTA, STOP]


def test_an_error_is_raised_after_what_came_before_it() -> None:
    stream = bursts(filled(START, DELTA, UnavailableError("gone")))
    assert next(stream) == [START, DELTA]
    with pytest.raises(UnavailableError):
        next(stream)
    with pytest.raises(UnavailableError):
        next(bursts(filled(UnavailableError("gone"))))
