"""Pages of events are bounded by their number and by their bytes, and say truly whether there is more."""

from __future__ import annotations

import random
import string

import pytest

from infra.services import Services
from infra.tasks import records
from infra.tasks.log import EventPage, read_events
from infra.tasks.transitions import Lease
from tests.world import World

BEFORE = 2
"""`task_created` and `task_started`: small."""
SIZE = 10_000
FEW = 4 * (SIZE + 100)
"""Room for four events of SIZE."""


@pytest.fixture
def world(services: Services) -> World:
    return World.make(services)


def filled(world: World, *sizes: int, text: str = "x") -> Lease:
    """A running task with an event of each size, in characters of JSON."""
    lease = world.claimed()
    with world.services.tasks.transaction() as tx:
        drafts = [("build_progress", {"stage": text * size, "percent": 1}) for size in sizes]
        records.append_event(tx, lease, *drafts)
    return lease


def read(world: World, lease: Lease, *, after: int = BEFORE, limit: int = 1000, max_bytes: int = FEW) -> EventPage:
    with world.services.database.read() as connection:
        return read_events(connection, lease.task_id, after=after, limit=limit, max_bytes=max_bytes)


def seqs(page: EventPage) -> list[int]:
    return [event["seq"] for event in page.events]


def test_a_page_ends_where_its_bytes_are_full(world: World) -> None:
    lease = filled(world, *[SIZE] * 10)
    assert (seqs(read(world, lease)), read(world, lease).more) == ([3, 4, 5, 6], True)
    assert (seqs(read(world, lease, after=10)), read(world, lease, after=10).more) == ([11, 12], False)


def test_what_does_not_compress_counts_the_same(world: World) -> None:
    noise = "".join(random.Random(1).choices(string.ascii_letters, k=SIZE))
    lease = filled(world, *[1] * 6, text=noise)
    assert (seqs(read(world, lease)), read(world, lease).more) == ([3, 4, 5, 6], True)


def test_an_event_larger_than_a_page_is_one(world: World) -> None:
    lease = filled(world, 1, 10 * FEW, 1, 1)
    assert seqs(read(world, lease)) == [3]
    assert (seqs(read(world, lease, after=3)), read(world, lease, after=3).more) == ([4], True)
    assert (seqs(read(world, lease, after=4)), read(world, lease, after=4).more) == ([5, 6], False)


@pytest.mark.parametrize(("limit", "more"), [(4, True), (5, False), (6, False)])
def test_a_page_ends_at_its_limit(world: World, limit: int, more: bool) -> None:
    lease = filled(world, *[1] * 5)
    page = read(world, lease, limit=limit)
    assert (len(page.events), page.more) == (min(limit, 5), more)


def test_nothing_is_a_page_too(world: World) -> None:
    assert read(world, world.claimed()) == EventPage([], more=False)
