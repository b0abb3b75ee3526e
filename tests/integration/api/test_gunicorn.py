"""The application as it is deployed: gunicorn with gevent workers, our configuration, real sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text

from infra.crypto import fingerprint
from infra.ids import new_id
from infra.services import Services
from infra.settings import Settings
from infra.tables import ApiToken, User
from tests.integration.api.conftest import REPO
from tests.integration.database_locks import wait_until_somebody_waits
from tests.services import SECRET_KEY

ROOT = Path(__file__).parents[3]
TOKEN = "fh_token-of-ada"
TASK = {"repo_url": REPO, "prompt": "p"}


class Gunicorn:
    """A running gunicorn on a port of its own choice."""

    def __init__(self, settings: Settings) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FARHAND_")}
        environment |= {
            "FARHAND_DATABASE_URL": settings.database_url,
            "FARHAND_REDIS_URL": settings.redis_url,
            "FARHAND_SECRET_KEYS": SECRET_KEY,
            "FARHAND_RUN_DIR": str(settings.run_dir),
            "FARHAND_RECORDINGS": str(settings.recordings),
            "FARHAND_MODEL": settings.model,
            "FARHAND_REGISTRATION": "open",
            "FARHAND_AUTH_RATE_LIMIT": settings.auth_rate_limit,
        }
        command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "-b", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "api.wsgi:rest()"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.log: list[str] = []
        self._booted = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._booted.wait(60), "".join(self.log)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", "".join(self.log))
        assert found, "".join(self.log)
        self.port = int(found[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.log.append(line)
                if "Booting worker" in line:
                    self._booted.set()
        self._booted.set()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._reader.join(10)
        return code


@pytest.fixture
def gunicorn(settings: Settings, services: Services) -> Iterator[Gunicorn]:
    with services.database.begin() as connection:
        user_id = new_id()
        connection.execute(insert(User).values(id=user_id, email="ada@example.test", password_hash="-"))
        connection.execute(
            insert(ApiToken).values(id=new_id(), user_id=user_id, name="t", token_hash=fingerprint(TOKEN))
        )
    server = Gunicorn(settings)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(gunicorn: Gunicorn) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=gunicorn.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


def test_the_way_of_a_client(client: httpx.Client, services: Services) -> None:
    assert client.get("/readyz").json() == {"status": "ok"}
    answer = client.post("/v1/tasks", json=TASK)
    assert answer.status_code == 202
    task = answer.json()
    assert client.get(f"/v1/tasks/{task['id']}").json() == task
    who = {"email": "new@example.test", "password": "correct horse"}
    assert client.post("/v1/auth/register", json=who).status_code == 201
    session = client.post("/v1/auth/login", json=who).json()
    me = client.get("/v1/me", headers={"Authorization": f"Bearer {session['access_token']}"})
    assert me.json()["email"] == "new@example.test"
    refreshed = client.post("/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})
    assert refreshed.status_code == 200
    cancelled = client.post(f"/v1/tasks/{task['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    events = client.get(f"/v1/tasks/{task['id']}/events").json()["items"]
    assert [event["seq"] for event in events] == [1, 2]
    wake_up = services.bus.redis.blpop(["agents"], timeout=10)
    assert task["id"] in str(wake_up)


def test_a_request_that_waits_for_postgres_holds_up_no_other(
    client: httpx.Client, gunicorn: Gunicorn, services: Services
) -> None:
    """psycopg gives the loop back while it waits: else one lock would stop the whole process."""
    answers: list[int] = []
    with services.database.engine.connect() as blocker:
        # A machine that is busy may take longer over the lines below than Postgres grants an idle transaction.
        blocker.execute(text("set local idle_in_transaction_session_timeout = 0"))
        blocker.execute(text("lock table projects in access exclusive mode"))
        threads = [run(lambda: answers.append(client.get("/v1/projects").status_code)) for _ in range(4)]
        wait_until_somebody_waits(services)
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/tasks").status_code == 200
        assert not answers
        blocker.rollback()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 4


@pytest.mark.parametrize("with_length", [True, False])
def test_a_body_of_ten_megabytes_is_refused_and_the_client_hears_it(gunicorn: Gunicorn, with_length: bool) -> None:
    body = json.dumps({**TASK, "prompt": "a" * 10_000_000}).encode()
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", gunicorn.port, timeout=30)
    try:
        connection.request("POST", "/v1/tasks", body if with_length else iter(pieces), headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "body_too_large")
    finally:
        connection.close()


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /" + "a" * 10_000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n" + "".join(f"X-{n}: 1\r\n" for n in range(100)) + "\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + "a" * 20_000 + "\r\n\r\n",
        "nonsense\r\n\r\n",
        "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_malformed_http_is_refused_and_the_server_lives_on(
    gunicorn: Gunicorn, client: httpx.Client, request_text: str
) -> None:
    with socket.create_connection(("127.0.0.1", gunicorn.port), timeout=20) as connection:
        connection.sendall(request_text.encode())
        status = connection.makefile("rb").readline()
    assert re.match(rb"HTTP/1.1 4\d\d ", status), status
    assert client.get("/healthz").status_code == 200


def test_headers_of_a_proxy_are_not_believed(client: httpx.Client) -> None:
    spoofed = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.1"}
    answer = client.get("/healthz", headers=spoofed)
    assert "Strict-Transport-Security" not in answer.headers


def test_on_term_it_ends_by_itself(gunicorn: Gunicorn, client: httpx.Client) -> None:
    assert client.post("/v1/tasks", json=TASK).status_code == 202
    assert gunicorn.stop() == 0
    assert not [line for line in gunicorn.log if "Traceback" in line], "".join(gunicorn.log)


def run(what: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=what)
    thread.start()
    return thread
