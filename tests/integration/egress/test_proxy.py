"""Requests of a sandbox through its proxy: what goes through, and as what."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.egress.authority import Authority
from tests.integration.egress.internet import DEADLINE_S, Internet, Proxy, read_answer
from tests.integration.egress.upstream import Upstream
from tests.world import World
from workers.egress.network import Network
from workers.egress.server import EgressServer


def tls(proxy: Proxy, authority: Authority, name: str = "secure.example", at: str = "") -> ssl.SSLSocket:
    tunnel = proxy.tunnel(at or f"{name}:443")
    return authority.client_context().wrap_socket(tunnel, server_hostname=name)


def test_https_through_connect_reaches_the_host_and_is_recorded(
    proxy: Proxy, secure: Upstream, authority: Authority
) -> None:
    with tls(proxy, authority) as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: secure.example\r\nConnection: close\r\n\r\n")
        assert read_answer(client).body == b"/hello"
    (record,) = proxy.settled()
    assert (record["host"], record["port"], record["method"]) == ("secure.example", 443, "CONNECT")
    assert (record["decision"], record["reason"], record["connections"]) == ("allowed", "done", 1)
    assert (record["address"], record["attempt"]) == ("93.184.216.35", 1)
    assert record["bytes_up"] > 200
    assert record["bytes_down"] > 500
    assert record["started_at"] <= record["ended_at"]


def test_plain_http_is_sent_on_with_nothing_of_ours_or_between_neighbours(proxy: Proxy, site: Upstream) -> None:
    answer = proxy.get(
        "http://site.example/path?query=1",
        Accept="*/*",
        Authorization="Basic eDp5",
        Proxy_Authorization="Basic c2VjcmV0",
        Proxy_Connection="keep-alive, X-Private",
        Connection="keep-alive, X-Hop, Host, Content-Length",
        X_Hop="1",
        X_Private="1",
        Upgrade="h2c",
        TE="trailers",
        Keep_Alive="300",
    )
    assert (answer.status, answer.body) == (200, b"/path?query=1".partition(b"?")[0])
    assert answer.headers["X-Server"] == "here"
    assert "Keep-Alive" not in answer.headers
    (seen,) = site.log.snapshot()
    assert (seen.method, seen.path) == ("GET", "/path?query=1")
    assert seen.headers == [
        ("Host", "site.example"),
        ("Accept", "*/*"),
        ("Authorization", "Basic eDp5"),
        ("Connection", "close"),
    ]
    (record,) = proxy.settled()
    assert (record["method"], record["host"], record["port"], record["reason"]) == ("HTTP", "site.example", 80, "done")
    assert 0 < record["bytes_up"] < 300


def test_whose_server_is_asked_says_the_address_alone(proxy: Proxy, site: Upstream) -> None:
    """A Host header of another site would be a way around the policy, where one server has many."""
    request = b"GET HTTP://SITE.example.:80?q HTTP/1.1\r\nHost: other.example\r\nX-A: 1\r\n\r\n"
    assert proxy.say(request).status == 200
    (seen,) = site.log.snapshot()
    assert seen.path == "/?q"
    assert seen.headers == [("Host", "site.example"), ("X-A", "1"), ("Connection", "close")]


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 11", b"hello world"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\n"),
        ("Content-Length: 11\r\nExpect: 100-continue", b"hello world"),
    ],
)
def test_a_body_arrives_whole_however_it_is_framed(proxy: Proxy, site: Upstream, framing: str, body: bytes) -> None:
    with proxy.dial() as client:
        client.sendall(f"POST http://site.example/in HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        if "Expect" in framing:
            told = client.recv(4096)
            assert told.startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert read_answer(client).status == 200
    (seen,) = site.log.snapshot()
    assert seen.body == b"hello world"


def test_answers_come_back_as_they_are(proxy: Proxy, site: Upstream) -> None:
    assert proxy.get("http://site.example/chunked").body == b"in pieces"
    assert len(proxy.get("http://site.example/big/3000000").body) == 3_000_000
    head = proxy.say(b"HEAD http://site.example/big/5 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (head.status, head.headers["Content-Length"]) == (200, "5")
    old = proxy.say(b"GET http://site.example/chunked HTTP/1.0\r\n\r\n")
    assert (old.body, old.headers.get("Transfer-Encoding")) == (b"in pieces", None)
    site.raw = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nuntil the end"
    assert proxy.get("http://site.example/raw").body == b"until the end"
    site.raw = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert proxy.get("http://site.example/raw").status == 204
    site.raw = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    both = proxy.get("http://site.example/raw")
    assert (both.body, both.headers.get("Content-Length")) == (b"abc", None)


def test_a_server_may_answer_before_it_has_read_everything(proxy: Proxy, internet: Internet, site: Upstream) -> None:
    """And one that then closes has still answered."""
    site.raw = b""
    with proxy.dial() as client:
        client.sendall(b"POST http://site.example/raw HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        client.sendall(b"67890")
        assert read_answer(client).code == "upstream_invalid"


def test_an_answer_that_is_cut_is_seen_as_cut(proxy: Proxy, site: Upstream) -> None:
    site.raw = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    with pytest.raises(http.client.IncompleteRead):
        proxy.get("http://site.example/raw")
    site.raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    with pytest.raises(http.client.IncompleteRead):
        proxy.get("http://site.example/raw")
    assert {record["reason"] for record in proxy.settled()} == {"upstream_invalid"}


@pytest.mark.parametrize(
    "garbage",
    [
        b"no http at all\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"",
    ],
)
def test_an_answer_that_is_none_is_a_502(proxy: Proxy, site: Upstream, garbage: bytes) -> None:
    site.raw = garbage
    answer = proxy.get("http://site.example/raw")
    assert (answer.status, answer.code) == (502, "upstream_invalid")


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n",
        b"GET https://site.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://site.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://user:secret@site.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example@evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil.example\\@site.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example:80:80/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example:/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example:0/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example:99999/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example%00.evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.exam\x00ple/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example/#f HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:///path HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example/\rX: y HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://site.example/ HTTP/1.1\r\n\r\n",
        b"GET http://site.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://site.example/ HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET http://site.example/ HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"POST http://site.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://site.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST http://site.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        b"POST http://site.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"CONNECT site.example HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT http://site.example:443/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT user@site.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT site.example:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
        b"CONNECT site.example:44 3 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT :443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT [::1:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_request_that_is_none_is_refused_and_reaches_nobody(
    proxy: Proxy, internet: Internet, site: Upstream, request_text: bytes
) -> None:
    answer = proxy.say(request_text)
    assert (answer.status, answer.code) == (400, "request_invalid")
    assert internet.connected == []
    (record,) = proxy.settled()
    assert (record["decision"], record["reason"], record["host"]) == ("refused", "request_invalid", "")


def test_what_follows_a_request_is_not_sent_on(proxy: Proxy, site: Upstream) -> None:
    first = b"GET http://site.example/first HTTP/1.1\r\nHost: x\r\n\r\n"
    second = b"GET /second HTTP/1.1\r\nHost: site.example\r\n\r\n"
    assert proxy.say(first + second).body == b"/first"
    assert [seen.path for seen in site.log.snapshot()] == ["/first"]


def test_a_head_without_bounds_is_refused(proxy: Proxy) -> None:
    target, lines = b"a" * 100_000, b" HTTP/1.1\r\nX: " + b"x" * 100_000
    for rest in (target, lines):
        answer = proxy.say(b"GET http://site.example/" + rest)
        assert (answer.status, answer.code) == (431, "request_invalid")


def test_trouble_upstream_is_told_apart(proxy: Proxy, internet: Internet) -> None:
    proxy.allow(["nowhere.example", "closed.example", "silent.example"])
    internet.names["closed.example"] = [["93.184.216.36"]]
    internet.names["silent.example"] = [["93.184.216.37", "93.184.216.38"]]

    def silent(address: str, port: int, timeout: float) -> object:
        raise TimeoutError

    answer = proxy.get("http://nowhere.example/")
    assert (answer.status, answer.code) == (502, "dns_failed")
    answer = proxy.get("http://closed.example/")
    assert (answer.status, answer.code) == (502, "upstream_unreachable")
    internet.connect = silent  # type: ignore[method-assign]  # a network that loses every packet
    answer = proxy.get("http://silent.example/")
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert [(r["decision"], r["reason"]) for r in proxy.settled()] == [
        ("allowed", "dns_failed"),
        ("allowed", "upstream_unreachable"),
        ("allowed", "upstream_timeout"),
    ]


def test_another_address_is_tried_when_one_does_not_answer(proxy: Proxy, internet: Internet, site: Upstream) -> None:
    internet.names["site.example"] = [["93.184.216.99", "93.184.216.34"]]
    assert proxy.get("http://site.example/").status == 200
    assert proxy.settled()[0]["address"] == "93.184.216.34"


def test_many_connections_at_once_all_get_their_answer(proxy: Proxy, site: Upstream) -> None:
    clients = [proxy.dial() for _ in range(40)]
    for client in clients:
        client.sendall(b"GET http://site.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert {read_answer(client).status for client in clients} == {200}
    for client in clients:
        client.close()
    assert len(proxy.settled()) == 40


def test_the_rest_of_a_half_closed_tunnel_arrives(
    make_proxy: Callable[..., Proxy], internet: Internet, site: Upstream
) -> None:
    """What the operator lists may be something else than TLS, and may end its side first."""
    proxy = make_proxy()
    proxy.allow(["other.example"], "site.example:80")
    with proxy.tunnel("site.example:80") as client:
        client.settimeout(DEADLINE_S)
        client.sendall(b"GET /big/500000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.shutdown(1)
        assert len(read_answer(client).body) == 500_000


def test_the_workers_own_resolver_and_network(world: World, run_dir: Path) -> None:
    proxy = Proxy(world, run_dir, Network())
    try:
        with Upstream() as server:
            proxy.allow("registries", f"localhost:{server.port}")
            assert proxy.get(f"http://localhost:{server.port}/here").body == b"/here"
            assert proxy.get("http://localhost:1/").code == "address_private"
    finally:
        proxy.close()


def test_a_proxy_that_never_started_can_be_cut(run_dir: Path) -> None:
    """An attempt may end before its sandbox is made."""
    server = EgressServer(run_dir)
    server.cut()
    server.settle()
