"""When a worker may go on, and when it may take others for dead, by its own clock."""

from __future__ import annotations

import pytest

from workers.lifetime import Lifetime

TTL, BEAT = 10.0, 3.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def alive_for(lifetime: Lifetime, clock: Clock, seconds: float) -> None:
    """Heartbeats without a gap, the last one `seconds` from now."""
    lifetime.beaten(clock.now)
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(clock.now + BEAT, end)
        lifetime.beaten(clock.now)


def test_it_is_suspended_before_its_first_heartbeat_and_a_ttl_after_its_last(clock: Clock) -> None:
    lifetime = Lifetime(TTL, clock=clock)
    assert lifetime.suspended()
    began = clock.now
    clock.now += 4  # the answer was slow; the lease counts from the question
    lifetime.beaten(began)
    assert not lifetime.suspended()
    clock.now = began + TTL
    assert lifetime.suspended()


def test_it_judges_after_a_full_ttl_of_heartbeats(clock: Clock) -> None:
    lifetime = Lifetime(TTL, clock=clock)
    alive_for(lifetime, clock, TTL - 0.1)
    assert not lifetime.may_judge()
    alive_for(lifetime, clock, 0.1)
    assert lifetime.may_judge()


@pytest.mark.parametrize("away", [1.5 * TTL, 0.8 * TTL, 0.6 * TTL], ids=["past the ttl", "nearly so", "half of it"])
@pytest.mark.parametrize("said", [True, False], ids=["that fail", "that hang"])
def test_after_an_outage_it_judges_nobody_for_a_ttl(clock: Clock, away: float, *, said: bool) -> None:
    lifetime = Lifetime(TTL, clock=clock)
    alive_for(lifetime, clock, 2 * TTL)
    began = clock.now
    clock.now += away
    if said:
        lifetime.missed()
        began = clock.now
    lifetime.beaten(began)
    assert not lifetime.may_judge()
    alive_for(lifetime, clock, TTL - 0.1)
    assert not lifetime.may_judge()
    alive_for(lifetime, clock, 0.1)
    assert lifetime.may_judge()


def test_one_missed_heartbeat_is_a_gap(clock: Clock) -> None:
    lifetime = Lifetime(TTL, clock=clock)
    alive_for(lifetime, clock, 2 * TTL)
    lifetime.missed()
    clock.now += 1
    lifetime.beaten(clock.now)
    assert not lifetime.suspended()
    assert not lifetime.may_judge()
