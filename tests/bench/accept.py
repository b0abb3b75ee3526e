"""accept: `POST /v1/tasks` per second, against a bare Flask route that inserts with psycopg and sends with Celery.

Both run under gunicorn with one gevent worker and the same configuration, in turns; the load is eight kept-alive
connections that send prepared bytes. Ours authenticates, validates, judges the repository's address and the model,
stores the task with its first event and message, and sends the same wake-up.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.cli import launch
from infra.cli.data_dir import DataDir
from infra.cli.local_user import ensure_local_user
from infra.db import Database
from infra.settings import Settings
from tests.bench.figures import Figure
from tests.bench.stage import floor_services

ROUNDS, CONNECTIONS, REQUESTS = 5, 8, 60
BODY = {"repo_url": "https://git.example.com/a/b", "prompt": "make the failing test pass", "model": "claude-sonnet"}


def run() -> list[Figure]:
    with floor_services() as (settings, scratch):
        token = _token(settings, scratch / "data")
        with _server("api.wsgi:rest()", settings) as ours, _server("tests.bench.bare:make_app()", settings) as bare:
            rates: dict[int, list[float]] = {ours: [], bare: []}
            for port in (ours, bare):
                _rate(port, token)  # pools, imports, prepared statements
            for _ in range(ROUNDS):
                for port in (ours, bare):
                    rates[port].append(_rate(port, token))
    what = f"POST /v1/tasks a second, {CONNECTIONS} connections"
    floor = "bare Flask + psycopg insert + Celery send"
    return [Figure("accept", what, floor, "1/s", rates[ours], rates[bare], target=">= 0.7")]


def _token(settings: Settings, data: Path) -> str:
    directory = DataDir(data)
    directory.make()
    database = Database(settings.database_url)
    ensure_local_user(database, directory)
    database.close()
    return directory.token() or ""


@contextmanager
def _server(application: str, settings: Settings) -> Iterator[int]:
    """One gunicorn worker that serves `application`; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    command = [*launch.api_command(bind=f"fd://{listener.fileno()}", part="rest")[:-1], application]
    environment = {
        "FARHAND_DATABASE_URL": settings.database_url,
        "FARHAND_REDIS_URL": settings.redis_url,
        "FARHAND_SECRET_KEYS": ",".join(key.get_secret_value() for key in settings.secret_keys),
        "FARHAND_ANTHROPIC_API_KEY": "k",
        "FARHAND_LOG_LEVEL": "WARNING",
    }
    process = subprocess.Popen(
        command, env=launch.service_environment({**os.environ, **environment}), pass_fds=[listener.fileno()]
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)
        listener.close()


def _rate(port: int, token: str) -> float:
    """Requests a second."""
    threads = [threading.Thread(target=_send, args=(port, token)) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CONNECTIONS * REQUESTS / (time.perf_counter() - began)


def _send(port: int, token: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps(BODY)
    for _ in range(REQUESTS):
        connection.request("POST", "/v1/tasks", body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 202:
            raise AssertionError(f"{response.status}: {answer[:300]!r}")
    connection.close()
