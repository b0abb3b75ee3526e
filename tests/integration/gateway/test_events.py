"""Events reach a subscriber exactly once and in order (G4). `Client` checks each one that it receives."""

from __future__ import annotations

import contextlib

from sqlalchemy import delete

from infra.ids import new_id
from infra.tables import Task
from tests.integration.gateway.client import Client
from tests.integration.gateway.conftest import Open
from tests.integration.gateway.writer import Writer
from tests.world import World

HEARD_BEFORE_THE_COMPARISON_S = 0.9
"""The gateway compares with Postgres once a second, which could hide that a publish did not arrive."""


def test_a_stored_task_and_what_happens_next(stream: Open, world: World) -> None:
    task_id = world.task()
    with stream() as client:
        subscribed = client.subscribe(task_id)
        assert (subscribed["last_seq"], subscribed["status"]) == (1, "pending")
        client.until_seq(task_id, 1)
        assert world.claim(task_id, world.worker()) is not None
        client.until_seq(task_id, 2, HEARD_BEFORE_THE_COMPARISON_S)
        assert client.types == ["task_created", "task_started"]


def test_an_event_is_as_rest_gives_it(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.subscribe(writer.task_id, after=1)
        stored = client.receive()["event"]
        assert (stored["v"], stored["seq"], stored["type"]) == (1, 2, "task_started")
        writer.progress()
        live = client.receive()["event"]
        assert live["data"] == {"stage": "x", "percent": 1}
        assert live["task_id"] == str(writer.task_id)


def test_only_what_is_behind_after_is_sent(stream: Open, writer: Writer) -> None:
    writer.progress(5)
    with stream() as client:
        client.subscribe(writer.task_id, after=4)
        client.until_seq(writer.task_id, 7)
        assert client.types == ["build_progress"] * 3


def test_after_the_last_event_is_resume_invalid(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.send("subscribe", task_id=writer.task_id, after=3, request_id="r")
        refused = client.receive()
        assert (refused["type"], refused["code"], refused["request_id"]) == ("error", "resume_invalid", "r")
        client.subscribe(writer.task_id, after=2)
        writer.progress()
        client.until_seq(writer.task_id, 3)


def test_a_task_that_is_not_there_or_not_yours_is_not_found(stream: Open, world: World) -> None:
    with stream() as client:
        for task_id in (new_id(), World.make(world.services).task()):
            client.send("subscribe", task_id=task_id)
            assert client.receive()["code"] == "not_found"


def test_a_long_history_comes_in_pages(stream: Open, writer: Writer) -> None:
    last = writer.history(5000)
    with stream() as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, last)
        writer.progress()
        client.until_seq(writer.task_id, last + 1, HEARD_BEFORE_THE_COMPARISON_S)


def test_a_busy_task_while_it_is_caught_up(stream: Open, writer: Writer) -> None:
    """The reads race with publishes: this is where naive joins lose or repeat."""
    writer.history(3000)
    with stream() as client:
        client.subscribe(writer.task_id)
        last = writer.progress(300)
        client.until_seq(writer.task_id, last)


def test_a_lost_publish_shows_up_by_itself(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.last_seq)
        writer.progress(3, published=False)
        client.until_seq(writer.task_id, 5, timeout=3)


def test_a_hole_is_filled_at_once(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.last_seq)
        writer.progress(1, published=False)
        last = writer.progress(1)
        client.until_seq(writer.task_id, last, HEARD_BEFORE_THE_COMPARISON_S)


def test_garbage_on_the_channel_harms_nobody(stream: Open, writer: Writer) -> None:
    channel = f"farhand:task:{writer.task_id}"
    with stream() as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.last_seq)
        for garbage in ("", "null", "{}", '{"event":{}}', '{"delta":{"part":1}}', "[1]", '{"event":{"seq":"x"}}'):
            writer.services.bus.redis.publish(channel, garbage)
        last = writer.progress()
        client.until_seq(writer.task_id, last, HEARD_BEFORE_THE_COMPARISON_S)


def test_many_tasks_on_one_socket(stream: Open, world: World) -> None:
    writers = [Writer(world) for _ in range(5)]
    with stream() as client:
        for writer in writers:
            client.subscribe(writer.task_id)
        for _ in range(10):
            for writer in writers:
                writer.progress()
        for writer in writers:
            client.until_seq(writer.task_id, 12)


def test_twenty_subscribers_get_the_same(stream: Open, writer: Writer) -> None:
    with contextlib.ExitStack() as stack:
        clients: list[Client] = []
        for position in range(20):
            clients.append(stack.enter_context(stream()))
            clients[-1].subscribe(writer.task_id)
            writer.progress()
            assert len(clients) == position + 1
        last = writer.progress(50)
        for client in clients:
            client.until_seq(writer.task_id, last)
            assert len(client.types) == last


def test_after_unsubscribe_nothing_comes(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.last_seq)
        client.send("unsubscribe", task_id=writer.task_id, request_id="u")
        client.until(lambda frame: frame.get("request_id") == "u")
        writer.progress()
        writer.flush()
        client.send("ping")
        assert client.receive()["type"] == "pong"
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.last_seq)


def test_subscribing_again_starts_again(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, 2)
        client.applied.clear()
        client.subscribe(writer.task_id, after=0)
        client.until_seq(writer.task_id, 2)
        writer.progress()
        client.until_seq(writer.task_id, 3)


def test_the_epoch_is_that_of_the_database(stream: Open, world: World) -> None:
    with stream() as client:
        epochs = {client.subscribe(world.task())["epoch"] for _ in range(2)}
    with stream() as client:
        epochs.add(client.subscribe(world.task())["epoch"])
    assert len(epochs) == 1


def test_a_task_that_is_deleted_ends_its_subscription(stream: Open, world: World) -> None:
    task_id = world.task()
    with stream() as client:
        client.subscribe(task_id)
        client.until_seq(task_id, 1)
        with world.services.database.begin() as connection:
            connection.execute(delete(Task).where(Task.id == task_id))
        error = client.receive(timeout=3)
        assert (error["type"], error["code"], error["task_id"]) == ("error", "not_found", str(task_id))
