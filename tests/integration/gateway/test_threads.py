"""The same gateway on plain threads, as a development server has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.serving import make_server

from api.gateway import EXTENSION, register
from infra.services import Services
from tests.integration.gateway.client import open_stream
from tests.integration.gateway.test_deltas import Screen
from tests.integration.gateway.writer import Writer


@pytest.fixture
def url(services: Services) -> Iterator[str]:
    app = Flask("threads")
    register(app, services)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"ws://127.0.0.1:{server.port}/v1/stream"
    app.extensions[EXTENSION].drain()
    app.extensions[EXTENSION].stop()
    server.shutdown()
    thread.join()
    server.server_close()


def test_events_and_deltas(url: str, token: str, writer: Writer) -> None:
    with open_stream(url, token) as client:
        client.subscribe(writer.task_id)
        client.until_seq(writer.task_id, writer.progress(20))
        writer.delta("1.1", "half")
        screen = Screen(client)
        screen.until("1.1", "half")
        client.until_seq(writer.task_id, writer.progress(2, size=2_000_000))


def test_refusals(url: str) -> None:
    with open_stream(url, "made-up") as client:
        assert client.close_code() == 4001
    with open_stream(url, additional_headers={"Origin": "https://evil.example"}) as client:
        assert client.close_code() == 4003
