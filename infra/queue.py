"""Celery: its queues and options, and the wake-up that is sent for a pending task.

A message is only a wake-up: it may be lost, doubled or late, and the claim in Postgres decides. Hence early ack, no
result backend, no retries and no countdown. The API sends by task name, so it never imports a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import redis
from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from infra.errors import ConfigurationError, UnavailableError
from infra.outbox import Outbox
from infra.settings import Settings

AGENTS = "agents"
"""Runs of attempts: hours long."""
SYSTEM = "system"
"""Short jobs."""

RUN_ATTEMPT = "farhand.run_attempt"


def make_celery(settings: Settings) -> Celery:
    """The Celery application that the API, the workers and Flower share."""
    if not settings.redis_url:
        raise ConfigurationError("FARHAND_REDIS_URL is not set")
    app = Celery("farhand", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        # Early ack: with acks_late on Redis a run longer than the visibility timeout would be run twice.
        task_acks_late=False,
        task_ignore_result=True,
        result_backend=None,
        task_store_errors_even_if_ignored=False,
        task_default_queue=SYSTEM,
        task_queues=(Queue(AGENTS), Queue(SYSTEM)),
        task_routes={RUN_ATTEMPT: {"queue": AGENTS}},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": True,
            # A channel is tried once more, then whoever asked hears of the outage; by default after six seconds.
            "max_retries": 1,
            "interval_start": 0,
        },
        enable_utc=True,
    )
    return app


class WakeUps:
    """Sends wake-ups off the caller's path: Redis may be down, and a POST still answers 202."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.outbox: Outbox[tuple[UUID, int]] = Outbox("wake-ups", self._deliver, batch=64)

    def send(self, task_id: UUID, attempt: int) -> None:
        """Wake a worker for attempt `attempt` of a task. Never blocks, never raises."""
        self.outbox.put((task_id, attempt))

    def send_now(self, batch: Sequence[tuple[UUID, int]]) -> None:
        """The same for many at once, and in the caller's own time. Raises UnavailableError: some may be sent."""
        try:
            self._deliver(batch)
        except (OperationalError, redis.RedisError) as error:
            raise UnavailableError(f"the queue needs Redis, which does not answer: {error}") from error

    def _deliver(self, batch: Sequence[tuple[UUID, int]]) -> None:
        with self._app.producer_pool.acquire(block=True) as producer:
            for task_id, attempt in batch:
                self._send(producer, task_id, attempt)

    def _send(self, producer: Any, task_id: UUID, attempt: int) -> None:
        self._app.send_task(
            RUN_ATTEMPT,
            args=[str(task_id)],
            task_id=f"{task_id}.{attempt}",
            producer=producer,
            retry=False,
            ignore_result=True,
        )


def queue_length(app: Celery, name: str) -> int:
    """Messages that wait in a queue. Raises UnavailableError."""
    try:
        with app.connection_for_read() as connection:
            return int(connection.default_channel.client.llen(name))
    except (OperationalError, redis.RedisError) as error:
        raise UnavailableError(f"the queue needs Redis, which does not answer: {error}") from error
