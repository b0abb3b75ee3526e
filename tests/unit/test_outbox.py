"""The outbox never blocks, keeps order, and survives whoever it delivers to."""

from __future__ import annotations

import logging
import threading

import pytest

from infra.outbox import Outbox


def test_items_arrive_in_order() -> None:
    arrived: list[int] = []
    outbox: Outbox[int] = Outbox("test", arrived.extend, batch=7)
    for number in range(1000):
        outbox.put(number)
    assert outbox.flush(10)
    assert arrived == list(range(1000))


def test_a_stuck_receiver_blocks_nobody_and_the_oldest_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    stuck, arrived = threading.Event(), threading.Event()
    seen: list[int] = []

    def deliver(items: list[int]) -> None:
        arrived.set()
        assert stuck.wait(10)
        seen.extend(items)

    outbox: Outbox[int] = Outbox("test", deliver, bound=3, batch=1)
    outbox.put(0)
    assert arrived.wait(10)
    for number in range(1, 6):
        outbox.put(number)
    assert not outbox.flush(0)
    stuck.set()
    assert outbox.flush(10)
    assert seen == [0, 3, 4, 5]
    assert any(getattr(record, "action", "") == "outbox_dropped" for record in caplog.records)


def test_a_failing_receiver_is_logged_once_and_tried_with_the_next(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str] = []

    def deliver(items: list[str]) -> None:
        if items[0].startswith("bad"):
            raise ConnectionError("nobody there")
        seen.extend(items)

    outbox: Outbox[str] = Outbox("test", deliver, batch=1)
    for item in ("bad1", "bad2", "good"):
        outbox.put(item)
        assert outbox.flush(10)
    assert seen == ["good"]
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert actions == ["outbox_failed", "outbox_recovered"]
