"""What a worker believes about itself follows from its heartbeats: each good one counts, and from when it began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import select

from infra.errors import UnavailableError
from infra.services import Services
from infra.settings import Settings
from infra.tables import Worker
from tests.cut_proxy import CutProxy
from tests.world import World
from workers.host import HEARTBEAT_S, WorkerHost
from workers.process_lock import first_free_lock
from workers.sandbox.local import LocalDriver


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Beating:
    """A worker whose clock stands until it is moved, and whose way to Postgres can be cut."""

    def __init__(self, settings: Settings, database_url: str, held: ExitStack) -> None:
        self.clock = Clock()
        self.ttl = settings.lease_ttl
        self._proxy = CutProxy(database_url)
        self._held = held
        held.enter_context(self._proxy)
        services = Services.open(settings.model_copy(update={"database_url": self._proxy.url}))
        held.callback(services.close)
        self.host = WorkerHost(services, LocalDriver(settings), name="w", clock=self.clock)
        held.callback(self.host._pulse.close)
        self.host._lock = first_free_lock(settings.run_dir)
        self.host._register()

    def beat_after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.host._heartbeat(self.clock.now)

    def cut_off(self) -> None:
        """From Postgres, for good."""
        self._proxy.__exit__()


@pytest.fixture
def beating(settings: Settings, database_url: str) -> Iterator[Beating]:
    with ExitStack() as held:
        yield Beating(settings, database_url, held)


def test_it_is_suspended_a_ttl_after_its_last_good_heartbeat_however_many_there_were(beating: Beating) -> None:
    host, clock = beating.host, beating.clock
    for _ in range(round(3 * beating.ttl / HEARTBEAT_S)):
        clock.now += HEARTBEAT_S
        assert not host.suspended()  # nor in between, however long ago it registered
        host._heartbeat(clock.now)
    last = clock.now
    beating.cut_off()
    for _ in range(3):
        with pytest.raises(UnavailableError):
            beating.beat_after(HEARTBEAT_S)
    clock.now = last + beating.ttl - 0.01
    assert not host.suspended()
    clock.now = last + beating.ttl
    assert host.suspended()


def test_a_heartbeat_that_was_long_on_its_way_counts_from_when_it_began(beating: Beating) -> None:
    began = beating.clock.now
    beating.clock.now += beating.ttl
    beating.host._heartbeat(began)
    assert beating.host.suspended()
    beating.beat_after(0)
    assert not beating.host.suspended()


def test_who_was_taken_for_dead_registers_anew(beating: Beating, world: World) -> None:
    host = beating.host
    first = host.worker_id
    assert first is not None
    world.let_die(first)
    world.sweep()
    beating.beat_after(2 * beating.ttl)
    assert host.worker_id not in {None, first}
    assert not host.suspended()
    with world.services.database.read() as connection:
        alive = connection.execute(select(Worker.id).where(Worker.swept_at.is_(None))).scalars().all()
    assert alive == [host.worker_id]
