"""event: committed by a worker until received by a WebSocket client, against a raw publish → subscribe in Redis.

This process appends events as a worker does (same transaction, same publisher) and is the client too, so both ends
have one clock; the gateway is a process of its own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import redis
from sqlalchemy import select

from infra.ids import new_id
from infra.services import Services
from infra.tables import Project
from infra.tasks import records, transitions
from infra.tasks.log import Event, TaskLog
from infra.tasks.ownership import register
from infra.tasks.transitions import Lease, NewTask
from tests.bench.figures import Figure
from tests.bench.stage import Stage, running

EVENTS = 300


class _Timed:
    """The bus, and when each event was handed to it: right after its commit."""

    def __init__(self, services: Services) -> None:
        self._bus = services.bus
        self.committed: dict[int, float] = {}

    def publish_events(self, events: Sequence[Event]) -> None:
        now = time.perf_counter()
        self.committed.update({event.seq: now for event in events})
        self._bus.publish_events(events)


def run() -> list[Figure]:
    with running({}) as stage:
        services = Services.open(stage.settings)
        timed = _Timed(services)
        log = TaskLog(services.database, timed)
        lease = _claimed_task(services, log)
        received = _watch(stage, lease, lambda: _append(log, lease))
        ours = [(received[seq] - timed.committed[seq]) * 1000 for seq in sorted(received) if seq in timed.committed]
        floor = raw(stage.settings.redis_url)
        services.close()
    what = "event committed until received over the WebSocket"
    return [Figure("event", what, "Redis publish until received by a subscriber", "ms", ours[-EVENTS:], floor)]


def _claimed_task(services: Services, log: TaskLog) -> Lease:
    with services.database.begin() as connection:
        project = connection.execute(select(Project.id, Project.user_id, Project.repo_url)).one()
        worker_id = register(connection, name="bench", slots=1, protocol_version=1, ttl=600)
    new = NewTask(
        user_id=project.user_id,
        project_id=project.id,
        repo_url=project.repo_url,
        prompt="bench",
        agent="coder",
        model="replay:none",
        base_branch=None,
        budget_usd=Decimal(1),
        user_limit=100,
    )
    with log.transaction() as tx:
        task = transitions.create(tx, new)
    with log.transaction() as tx:
        claimed = transitions.claim(
            tx, task.id, worker_id=worker_id, worker_name="bench", sandbox="none", user_limit=100
        )
    assert claimed is not None
    return claimed[0]


def _append(log: TaskLog, lease: Lease) -> None:
    for number in range(EVENTS):
        with log.transaction() as tx:
            records.append_event(tx, lease, ("error", {"code": "bench", "message": f"event {number}"}))
        time.sleep(0.005)  # the pace of a task that streams fast; a flood would measure a queue
    with log.transaction() as tx:
        transitions.fail(tx, lease, {"code": "bench", "message": "over", "hint": "none"})


def _watch(stage: Stage, lease: Lease, work: Any) -> dict[int, float]:
    """When each event was received."""
    received: dict[int, float] = {}
    worker = threading.Thread(target=work)
    for frame in stage.client.stream(str(lease.task_id)):
        if frame["type"] == "subscribed":
            worker.start()
        if frame["type"] == "event":
            received[frame["event"]["seq"]] = time.perf_counter()
    worker.join()
    return received


def raw(url: str) -> list[float]:
    """Milliseconds of each of EVENTS messages of the same size."""
    sent: list[float] = []
    times: list[float] = []
    channel, payload = str(new_id()), json.dumps({"event": "x" * 250})
    with redis.Redis.from_url(url) as publisher, redis.Redis.from_url(url) as listener:
        pubsub = listener.pubsub()
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)

        def publish() -> None:
            for _ in range(EVENTS):
                sent.append(time.perf_counter())
                publisher.publish(channel, payload)
                time.sleep(0.005)

        thread = threading.Thread(target=publish)
        thread.start()
        while len(times) < EVENTS:
            if pubsub.get_message(timeout=5) is not None:
                times.append((time.perf_counter() - sent[len(times)]) * 1000)
        thread.join()
        pubsub.close()
    return times
