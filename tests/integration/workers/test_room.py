"""A worker host without room takes no new task, says so once, and leaves the task to others."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy import update

from infra.services import Services
from infra.tables import Task
from infra.tasks.states import Status
from tests.world import World
from workers.host import WorkerHost
from workers.room import Room
from workers.sandbox.local import LocalDriver

MORE_THAN_THERE_IS = 2**62


def wanting(services: Services, floor: int) -> Services:
    return replace(services, settings=services.settings.model_copy(update={"min_free_bytes": floor}))


def a_room(services: Services, floor: int) -> Room:
    return Room(wanting(services, floor), worker="w1")


def test_a_host_with_room_declines_nothing(world: World) -> None:
    task = world.task()
    assert not a_room(world.services, 0).declines(task)
    assert world.events(task) == ["task_created"]


def test_a_host_without_room_says_so_once_and_passes_the_wake_up_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    task, room = world.task(), a_room(world.services, MORE_THAN_THERE_IS)
    with world.services.database.begin() as connection:
        connection.execute(update(Task).values(enqueued_at=Task.created_at))
    for _ in range(3):
        assert room.declines(task)
    row = world.row(task)
    assert (row.status, row.enqueued_at) == (Status.PENDING, None)
    assert world.events(task) == ["task_created", "error"]
    assert caplog.text.count("FARHAND_MIN_FREE_BYTES") == 1


def test_a_worker_asks_before_it_claims(world: World) -> None:
    services = wanting(world.services, MORE_THAN_THERE_IS)
    host = WorkerHost(services, LocalDriver(services.settings), name="w1")
    host._lifetime.beaten(time.monotonic())
    task = world.task()
    host.run(task)
    assert world.row(task).status == Status.PENDING
    assert world.events(task) == ["task_created", "error"]


def test_a_task_that_is_not_waiting_any_more_is_left_alone(world: World) -> None:
    lease = world.claimed()
    before = world.events(lease.task_id)
    assert a_room(world.services, MORE_THAN_THERE_IS).declines(lease.task_id)
    assert world.events(lease.task_id) == before
