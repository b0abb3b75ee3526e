"""TERM sends the clients away: told when to come back, then closed with 4200, all within a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic

import pytest
from websockets.exceptions import ConnectionClosed

from infra.settings import Settings
from tests.integration.gateway.client import open_stream
from tests.integration.gateway.process import GatewayProcess
from tests.integration.gateway.writer import Writer

CLIENTS = 30
JITTER_MS = 700


@pytest.fixture
def gateway(settings: Settings) -> Iterator[GatewayProcess]:
    process = GatewayProcess(settings, drain_batch=10, reconnect_jitter_ms=JITTER_MS)
    with contextlib.closing(process):
        process.start()
        yield process


def test_term_sends_everybody_away(gateway: GatewayProcess, token: str, writer: Writer) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(open_stream(gateway.url, token)) for _ in range(CLIENTS)]
        for client in clients:
            client.subscribe(writer.task_id)
            client.until_seq(writer.task_id, writer.last_seq)
        began = monotonic()
        gateway.terminate()
        assert monotonic() - began < 8, "it waited for its clients"
        pauses = []
        for client in clients:
            pauses.append(client.until_type("reconnect")["after_ms"])
            with pytest.raises(ConnectionClosed) as closed:
                client.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4200
    assert all(0 <= pause <= JITTER_MS for pause in pauses)
    assert len(set(pauses)) > CLIENTS // 3, "they would all come back at once"
