"""For operators and their tools: is it up, is it ready, what does it do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis
from flask import Flask, Response, current_app, request
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy import text

from api import answers
from api.problems import problem
from api.routes import Call, Json, Routes, current_route
from infra.errors import UnavailableError
from infra.queue import AGENTS, SYSTEM, queue_length
from infra.services import Services
from infra.tasks.views import count_pending

log = logging.getLogger(__name__)

routes = Routes("operations")

_EXTENSION = "farhand-metrics"
_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})


@routes.get("/healthz", answer=answers.Health, public=True)
def healthz(call: Call) -> Json:  # noqa: ARG001
    """The process is up."""
    return {"status": "ok"}


@routes.get("/readyz", answer=answers.Health, public=True)
def readyz(call: Call) -> Json | Response:
    """Postgres and Redis answer. While only Redis is down, tasks are still taken and kept."""
    down = [name for name, answers in (("postgres", _postgres), ("redis", _redis)) if not answers(call.services)]
    if down:
        hint = "The log of this process says more; `farhand doctor` checks the whole deployment."
        errors = [{"field": name, "message": "does not answer"} for name in down]
        return problem(503, "not_ready", f"{' and '.join(down)}: no answer", hint, errors=errors)
    return {"status": "ok"}


@routes.get("/metrics", public=True, media_types=("text/plain",))
def metrics(call: Call) -> Response:  # noqa: ARG001
    """Prometheus metrics of this process, and of the queue. Nothing in them is about a user."""
    registry: CollectorRegistry = current_app.extensions[_EXTENSION]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def register_metrics(app: Flask, services: Services) -> None:
    """Count every request, and measure queue and backlog whenever the metrics are read."""
    registry = CollectorRegistry()
    app.extensions[_EXTENSION] = registry
    registry.register(_Backlog(services))
    requests = Counter("farhand_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry)
    # `labels` checks and formats its arguments each time; there are few different ones.
    seen: dict[tuple[str, str, int], Any] = {}

    @app.after_request
    def count(response: Response) -> Response:
        # A client may make up any method: without a bound each would be a time series of its own.
        method = request.method if request.method in _METHODS else "OTHER"
        labels = (method, current_route(), response.status_code)
        counter = seen.get(labels) or seen.setdefault(labels, requests.labels(*labels))
        counter.inc()
        return response


class _Backlog(Collector):
    """What waits: a gauge that can't be measured (its server is down) is left out."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        queues = GaugeMetricFamily("farhand_queue_messages", "Messages that wait in a queue.", labels=["queue"])
        for name in (AGENTS, SYSTEM):
            length = _measured(partial(queue_length, self._services.celery, name))
            if length is not None:
                queues.add_metric([name], length)
        yield queues
        pending = _measured(self._pending)
        if pending is not None:
            yield GaugeMetricFamily("farhand_tasks_pending", "Tasks that wait for a worker.", value=pending)

    def _pending(self) -> int:
        with self._services.database.read() as connection:
            return count_pending(connection)


def _measured(measure: Callable[[], int]) -> int | None:
    try:
        return measure()
    except UnavailableError:
        return None


def _postgres(services: Services) -> bool:
    try:
        with services.database.read() as connection:
            connection.execute(text("select 1"))
    except UnavailableError as error:
        log.warning("not ready: %s", error, extra={"action": "not_ready"})
        return False
    return True


def _redis(services: Services) -> bool:
    try:
        services.bus.redis.ping()
    except redis.RedisError as error:
        log.warning("not ready: Redis does not answer: %s", error, extra={"action": "not_ready"})
        return False
    return True
