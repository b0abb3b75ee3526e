"""Servers die under the stream: nothing is lost and nothing comes twice (G4). `Client` checks every event."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed

from api.auth import access
from infra.services import Services
from infra.settings import Settings
from tests.integration.gateway.client import DEADLINE_S, open_stream
from tests.integration.gateway.process import GatewayProcess
from tests.integration.gateway.writer import Writer
from tests.services import Postgres, Redis, make_settings
from tests.world import World

NEVER_S = 3600.0


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Redis]:
    """A Redis that these tests may stop."""
    server = Redis()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def redis_url(redis_server: Redis) -> str:
    return redis_server.url


@contextmanager
def writing(writer: Writer, count: int) -> Iterator[Callable[[int], None]]:
    """Events go on being written in the background. Yields a function that waits until so many are."""
    progress = threading.Condition()
    written = 0

    def write() -> None:
        nonlocal written
        for _ in range(count):
            writer.progress()
            with progress:
                written += 1
                progress.notify_all()

    def wait_for(number: int) -> None:
        with progress:
            assert progress.wait_for(lambda: written >= number, DEADLINE_S)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield wait_for
    finally:
        thread.join()


def follow(gateway: GatewayProcess, token: str, writer: Writer, last: int) -> tuple[int, list[int | None]]:
    """A client that comes back until it has all events. Returns how many it got, and why its sockets closed."""
    applied: dict[str, int] = {}
    count = 0
    closes: list[int | None] = []
    while applied.get(str(writer.task_id), 0) < last:
        try:
            with open_stream(gateway.url, token, applied=applied) as client:
                try:
                    client.subscribe(writer.task_id)
                    client.until_seq(writer.task_id, last)
                finally:
                    count += len(client.types)
        except ConnectionClosed as closed:
            closes.append(closed.rcvd.code if closed.rcvd else None)
        except (OSError, EOFError):
            closes.append(None)
    return count, closes


def test_the_gateway_is_killed_and_restarted(gateway: GatewayProcess, token: str, writer: Writer) -> None:
    last = writer.last_seq + 600
    with ThreadPoolExecutor(1) as pool, writing(writer, 600) as wait_for:
        following = pool.submit(follow, gateway, token, writer, last)
        wait_for(50)
        gateway.kill()
        gateway.start()
        wait_for(300)
        gateway.terminate()
        gateway.start()
        count, closes = following.result(60)
    assert count == last
    assert closes


def test_redis_is_killed_and_restarted_in_mid_stream(
    gateway: GatewayProcess, redis_server: Redis, token: str, writer: Writer
) -> None:
    last = writer.last_seq + 600
    with open_stream(gateway.url, token) as client:
        client.subscribe(writer.task_id)
        with writing(writer, 600) as wait_for:
            wait_for(50)
            redis_server.stop()
            wait_for(250)
            client.until_seq(writer.task_id, 250)  # while Redis is down
            redis_server.start()
            client.until_seq(writer.task_id, last)


def test_a_subscription_that_begins_without_redis(
    gateway: GatewayProcess, redis_server: Redis, token: str, world: World
) -> None:
    redis_server.stop()
    try:
        writer = Writer(world)
        with open_stream(gateway.url, token) as client:
            client.subscribe(writer.task_id)
            client.until_seq(writer.task_id, writer.last_seq)
            client.until_seq(writer.task_id, writer.progress(3))
            redis_server.start()
            client.until_seq(writer.task_id, writer.progress(3))
    finally:
        redis_server.stop()
        redis_server.start()


def test_a_ticket_without_redis_says_come_back_later(gateway: GatewayProcess, redis_server: Redis) -> None:
    redis_server.stop()
    try:
        with open_stream(f"{gateway.url}?ticket=any") as client:
            assert client.close_code() == 4100
    finally:
        redis_server.start()


@pytest.fixture
def deaf_gateway(settings: Settings) -> Iterator[GatewayProcess]:
    """One that never compares with Postgres by itself: what arrives was told by Redis."""
    process = GatewayProcess(settings, poll_s=NEVER_S)
    try:
        process.start()
        yield process
    finally:
        process.close()


def test_the_doorbell_is_subscribed_again_after_redis_dropped_it(
    deaf_gateway: GatewayProcess, token: str, writer: Writer
) -> None:
    redis = writer.services.bus.redis
    with open_stream(deaf_gateway.url, token) as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.last_seq)
        for _ in range(3):
            assert redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            told = threading.Event()
            writing = threading.Thread(target=lambda told=told: write_until(told, writer))
            writing.start()
            client.until_seq(writer.task_id, writer.last_seq + 1)
            told.set()
            writing.join()
            client.until_seq(writer.task_id, writer.progress())


def write_until(told: threading.Event, writer: Writer) -> None:
    while not told.wait(0.02):
        writer.progress()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    server.make_template()
    yield server
    server.remove()


@pytest.fixture
def own_services(own_postgres: Postgres, settings: Settings) -> Iterator[Services]:
    url = own_postgres.create_database()
    opened = Services.open(make_settings(database_url=url, redis_url=settings.redis_url, run_dir=settings.run_dir))
    yield opened
    opened.close()


def test_postgres_is_killed_and_restarted_in_mid_stream(own_postgres: Postgres, own_services: Services) -> None:
    world = World.make(own_services)
    writer = Writer(world)
    with contextlib.closing(GatewayProcess(own_services.settings)) as gateway:
        gateway.start()
        with open_stream(gateway.url, access.issue(own_services, world.user_id)) as client:
            client.subscribe(writer.task_id)
            client.until_seq(writer.task_id, writer.progress(3))
            own_postgres.stop()
            client.send("subscribe", task_id=writer.task_id, after=0, request_id="r")
            refused = client.receive()
            assert (refused["type"], refused["code"]) == ("error", "unavailable")
            own_postgres.start()
            own_services.database.close()  # its connections are dead
            client.until_seq(writer.task_id, writer.progress(3, published=False))
            client.until_seq(writer.task_id, writer.progress(3))
