"""Who is let in, and what the others are told. Refusals are a close code, which says whether to come back."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api.auth import access, cookies
from infra.crypto import fingerprint, new_secret
from infra.ids import new_id
from infra.services import Services
from infra.tables import ApiToken
from tests.integration.gateway.client import Client, open_stream
from tests.integration.gateway.conftest import Open
from tests.integration.gateway.process import GatewayProcess
from tests.world import World

SOCKETS_PER_USER = 3


@pytest.fixture(scope="module")
def limits() -> dict[str, Any]:
    return {"auth_timeout_s": 0.5, "pulse_s": 0.1, "sockets_per_user": SOCKETS_PER_USER}


def refused_with(gateway: GatewayProcess, *frames: str | bytes, query: str = "", **headers: str) -> int | None:
    with open_stream(gateway.url + query, additional_headers=headers) as client:
        with contextlib.suppress(Exception):  # the server may be quicker to close
            for frame in frames:
                client.socket.send(frame)
        return client.close_code()


def greeted(client: Client) -> bool:
    return bool(client.receive()["type"] == "hello")


def works(client: Client, world: World) -> bool:
    return bool(client.subscribe(world.task())["last_seq"] == 1)


def test_hello_says_what_to_expect(gateway: GatewayProcess, token: str) -> None:
    with open_stream(gateway.url) as client:
        hello = client.receive()
        client.send("auth", token=token)
    assert hello["heartbeat_s"] == 25
    assert client.socket.subprotocol == "farhand.v1"
    assert client.socket.protocol.extensions == []


def test_a_ticket_is_good_once(gateway: GatewayProcess, services: Services, world: World) -> None:
    ticket = services.bus.issue_ticket(world.user_id)
    with open_stream(f"{gateway.url}?ticket={ticket}") as client:
        assert greeted(client)
        assert works(client, world)
    assert refused_with(gateway, query=f"?ticket={ticket}") == 4001


@pytest.mark.parametrize("ticket", ["", "made-up", "x" * 3000, "%00%ff"])
def test_what_is_no_ticket(gateway: GatewayProcess, ticket: str) -> None:
    assert refused_with(gateway, query=f"?ticket={ticket}") == 4001


def test_an_api_token_logs_in(gateway: GatewayProcess, services: Services, world: World) -> None:
    token = "fh_" + new_secret()
    with services.database.begin() as connection:
        values = {"id": new_id(), "user_id": world.user_id, "name": "t", "token_hash": fingerprint(token)}
        connection.execute(ApiToken.__table__.insert().values(values))  # type: ignore[attr-defined]
    with open_stream(gateway.url, token) as client:
        assert works(client, world)


@pytest.mark.parametrize(
    "first",
    [
        json.dumps({"type": "auth", "token": "made-up"}),
        json.dumps({"type": "auth", "token": "fh_made-up"}),
        json.dumps({"type": "auth"}),
        json.dumps({"type": "ping"}),
        json.dumps({"type": "subscribe", "feed": "tasks"}),
        "{",
        "",
    ],
)
def test_a_first_frame_that_does_not_log_in(gateway: GatewayProcess, first: str) -> None:
    assert refused_with(gateway, first) == 4001


def test_who_says_nothing_is_closed_in_time(gateway: GatewayProcess) -> None:
    assert refused_with(gateway) == 4001


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "", "http://", "http://["])
def test_a_page_of_another_origin_is_refused_whatever_it_has(
    gateway: GatewayProcess, services: Services, world: World, token: str, origin: str
) -> None:
    ticket = services.bus.issue_ticket(world.user_id)
    assert refused_with(gateway, query=f"?ticket={ticket}", Origin=origin) == 4003
    assert refused_with(gateway, Origin=origin, Cookie=f"{cookies.ACCESS}={token}") == 4003
    with open_stream(f"{gateway.url}?ticket={ticket}") as client:  # and did not even use the ticket up
        assert greeted(client)


def test_a_page_of_ours_logs_in_with_its_cookie(gateway: GatewayProcess, world: World, token: str) -> None:
    headers = {"Origin": f"http://{gateway.address}", "Cookie": f"{cookies.ACCESS}={token}"}
    with open_stream(gateway.url, additional_headers=headers) as client:
        assert greeted(client)
        assert works(client, world)
    headers["Cookie"] = f"{cookies.ACCESS}=made-up"
    assert refused_with(gateway, **headers) == 4001


def test_a_cookie_without_an_origin_does_not_count(gateway: GatewayProcess, token: str) -> None:
    assert refused_with(gateway, '{"type":"ping"}', Cookie=f"{cookies.ACCESS}={token}") == 4001


def test_a_login_is_refreshed_without_a_reconnect(stream: Open, world: World, token: str) -> None:
    with stream() as client:
        client.send("auth", token=token, request_id="again")
        assert client.receive() == {"type": "ack", "request_id": "again"}
        client.send("auth", token=access.issue(world.services, world.another_user()), request_id="other")
        assert client.receive()["code"] == "forbidden"
        assert works(client, world)
        client.send("auth", token="made-up")
        assert client.close_code() == 4001


def test_a_user_has_so_many_sockets_and_no_more(gateway: GatewayProcess, stream: Open, world: World) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(stream()) for _ in range(SOCKETS_PER_USER)]
        with stream() as one_more:
            assert one_more.close_code() == 4129
        with open_stream(gateway.url, access.issue(world.services, world.another_user())) as other:
            other.send("ping")
            assert other.receive()["type"] == "pong"
        clients[0].socket.close()
        # The gateway may still be at noticing that it is gone.
        for _ in range(100):
            with stream() as replacement:
                replacement.send("ping")
                with contextlib.suppress(Exception):
                    assert replacement.receive()["type"] == "pong"
                    return
    raise AssertionError("the closed socket still counts")


def test_a_plain_request_is_told_so(gateway: GatewayProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(gateway.url.replace("ws:", "http:"), timeout=10)
    assert refused.value.code == 400
    refused.value.close()


def test_a_broken_handshake_is_told_so(gateway: GatewayProcess) -> None:
    headers = {"Sec-WebSocket-Version": "8"}
    with pytest.raises(InvalidStatus) as refused:
        connect(gateway.url, additional_headers=headers, proxy=None)
    assert refused.value.response.status_code == 400
