"""The feed: all open tasks of the user, then each task's newest state."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from api.auth import access
from infra.services import Services
from infra.tasks import transitions
from infra.tasks.log import TaskLog
from tests.integration.gateway.client import Client, Frame, open_stream
from tests.integration.gateway.process import GatewayProcess
from tests.integration.gateway.writer import Silence
from tests.world import World


@pytest.fixture
def world(services: Services) -> World:
    """A user of its own for each test: the feed has all that a user has."""
    return World.make(services)


@pytest.fixture
def token(world: World) -> str:
    return access.issue(world.services, world.user_id)


def shows(task_id: UUID, status: str) -> Callable[[Frame], bool]:
    return lambda frame: (
        frame["type"] == "task"
        and (frame["task"]["id"], frame["task"]["status"])
        == (
            str(task_id),
            status,
        )
    )


def feed_of(client: Client) -> None:
    client.send("subscribe", feed="tasks")


def cancel(log: TaskLog, world: World, task_id: UUID) -> None:
    with log.transaction() as tx:
        transitions.request_cancel(tx, task_id, user_id=world.user_id)


def test_open_tasks_then_what_changes(gateway: GatewayProcess, token: str, world: World) -> None:
    open_task, ended = world.task(), world.task()
    cancel(world.services.tasks, world, ended)
    World.make(world.services).task()
    with open_stream(gateway.url, token) as client:
        feed_of(client)
        first = client.receive()
        assert shows(open_task, "pending")(first)
        assert first["task"]["last_seq"] == 1
        added = world.task()
        assert shows(added, "pending")(client.receive())  # neither the ended task nor another user's is in between
        assert world.claim(open_task, world.worker()) is not None
        client.until(shows(open_task, "running"))
        cancel(world.services.tasks, world, added)
        client.until(shows(added, "cancelled"))


def test_lost_doorbells_show_up_by_themselves(gateway: GatewayProcess, token: str, world: World) -> None:
    silent = TaskLog(world.services.database, Silence())
    task_id = world.task()
    with open_stream(gateway.url, token) as client:
        feed_of(client)
        client.until(shows(task_id, "pending"))
        cancel(silent, world, task_id)
        client.until(shows(task_id, "cancelled"), timeout=4)
        with silent.transaction() as tx:  # a change without an event
            transitions.retry(tx, task_id, user_id=world.user_id, budget_usd=None)
        client.until(shows(task_id, "pending"), timeout=4)


def test_after_unsubscribe_nothing_comes(gateway: GatewayProcess, token: str, world: World) -> None:
    with open_stream(gateway.url, token) as client:
        feed_of(client)
        client.until(shows(world.task(), "pending"))
        client.send("unsubscribe", feed="tasks")
        world.task()
        assert world.services.bus.outbox.flush(10)
        client.send("ping")
        assert client.receive()["type"] == "pong"
