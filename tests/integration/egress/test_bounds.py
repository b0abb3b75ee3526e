"""Bytes, time, the worker's authority and the end of the attempt: what ends a connection that was allowed."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.integration.egress.authority import Authority
from tests.integration.egress.internet import Internet, Proxy, ended
from tests.integration.egress.upstream import Upstream
from tests.unit.egress.hellos import client_hello
from workers.egress.bounds import Bounds


@pytest.fixture
def bounded(make_proxy: Callable[..., Proxy]) -> Callable[..., Proxy]:
    def make(**bounds: float) -> Proxy:
        proxy = make_proxy(Bounds(**bounds))  # type: ignore[arg-type]
        proxy.allow(["site.example", "secure.example"])
        return proxy

    return make


def test_what_comes_down_is_bounded(bounded: Callable[..., Proxy], site: Upstream) -> None:
    proxy = bounded(connection_down=200_000)
    assert len(proxy.get("http://site.example/big/100000").body) == 100_000
    with pytest.raises(http.client.IncompleteRead):
        proxy.get("http://site.example/big/900000")
    done, cut = proxy.settled()
    assert (done["reason"], cut["reason"]) == ("done", "bytes_exceeded")
    assert cut["bytes_down"] <= 200_000


def test_what_goes_up_is_bounded_and_nothing_beyond_it_arrives(bounded: Callable[..., Proxy], site: Upstream) -> None:
    proxy = bounded(connection_up=50_000)
    head = b"POST http://site.example/in HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n"
    with proxy.dial() as client:
        client.sendall(head + b"x" * 90_000)
        ended(client)
    (record,) = proxy.settled()
    assert record["reason"] == "bytes_exceeded"
    assert record["bytes_up"] <= 50_000
    assert site.log.snapshot() == []


def test_a_tunnel_is_bounded_too(bounded: Callable[..., Proxy], secure: Upstream, authority: Authority) -> None:
    proxy = bounded(connection_down=300_000)
    with authority.client_context().wrap_socket(
        proxy.tunnel("secure.example:443"), server_hostname="secure.example"
    ) as client:
        client.sendall(b"GET /big/2000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended(client)
    (record,) = proxy.settled()
    assert record["reason"] == "bytes_exceeded"


def test_all_connections_of_an_attempt_share_a_bound(bounded: Callable[..., Proxy], site: Upstream) -> None:
    proxy = bounded(attempt_down=250_000)
    for _ in range(2):
        assert len(proxy.get("http://site.example/big/100000").body) == 100_000
    with suppress(http.client.IncompleteRead):
        assert proxy.get("http://site.example/big/100000").code == "bytes_exceeded"
    records = proxy.settled()
    assert [record["reason"] for record in records] == ["done", "done", "bytes_exceeded"]
    assert sum(record["bytes_down"] for record in records) <= 250_000


def test_silence_is_bounded(bounded: Callable[..., Proxy], site: Upstream) -> None:
    proxy = bounded(idle_s=0.2)
    answer = proxy.get("http://site.example/hold")
    assert (answer.status, answer.code) == (502, "idle")
    assert proxy.settled()[0]["reason"] == "idle"


def test_the_time_of_a_connection_is_bounded_however_busy_it_is(bounded: Callable[..., Proxy], site: Upstream) -> None:
    proxy = bounded(connection_s=0.5, connection_down=2**40, attempt_down=2**40)
    with proxy.dial() as client:
        client.sendall(b"GET http://site.example/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended(client)
    assert proxy.settled()[0]["reason"] == "time_exceeded"


def test_the_end_of_the_attempt_cuts_what_is_under_way(
    proxy: Proxy, internet: Internet, site: Upstream, secure: Upstream
) -> None:
    """A download in the middle, an open tunnel, a half-sent request; all records are complete afterwards."""
    download, tunnel, half = proxy.dial(), proxy.tunnel("secure.example:443"), proxy.dial()
    download.sendall(b"GET http://site.example/endless HTTP/1.1\r\nHost: x\r\n\r\n")
    half.sendall(b"GET http://site.exa")
    tunnel.sendall(client_hello("secure.example"))
    assert tunnel.recv(1) == b"\x16"
    assert download.recv(65536)
    assert site.flowing.wait(30)
    proxy.in_hub(proxy.server.cut)
    for client in (download, tunnel, half):
        assert ended(client)
        client.close()
    with pytest.raises(OSError):  # noqa: PT011  (no such file, or nobody listens)
        proxy.dial()
    assert all(record["ended_at"] is None for record in proxy.records())
    proxy.in_hub(proxy.server.settle)
    records = {record["host"]: record for record in proxy.records()}
    assert records["site.example"]["reason"] == records["secure.example"]["reason"] == "cut"
    assert records["site.example"]["bytes_down"] > 0
    assert all(record["ended_at"] for record in records.values())


def test_an_open_connection_is_on_record_before_it_ends(proxy: Proxy, site: Upstream) -> None:
    with proxy.dial() as client:
        client.sendall(b"GET http://site.example/hold HTTP/1.1\r\nHost: x\r\n\r\n")
        site.log.wait_until(lambda seen: len(seen) == 1, 30)
        (record,) = proxy.records()
        assert (record["decision"], record["reason"], record["ended_at"]) == ("allowed", None, None)


def test_a_suspended_worker_lets_nothing_out(
    proxy: Proxy, internet: Internet, site: Upstream, secure: Upstream
) -> None:
    with proxy.dial() as upload:
        upload.sendall(b"POST http://site.example/in HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n0123456789")
        assert site.heads.wait(30)
        proxy.is_suspended = True
        upload.sendall(b"0123456789")
        ended(upload)
    answer = proxy.get("http://site.example/")
    assert (answer.status, answer.code) == (503, "suspended")
    assert site.log.snapshot() == []
    assert len(internet.connected) == 1
    proxy.is_suspended = False
    assert proxy.get("http://site.example/").status == 200


def test_without_the_lease_nothing_goes_out(proxy: Proxy, internet: Internet, site: Upstream) -> None:
    worker = proxy.world.row(proxy.lease.task_id).worker_id
    assert proxy.get("http://site.example/").status == 200
    proxy.world.let_die(worker)
    assert proxy.world.sweep()
    answer = proxy.get("http://site.example/")
    assert (answer.status, answer.code) == (403, "authority_lost")
    assert proxy.lost.wait(30)
    assert len(internet.connected) == 1
    assert len(proxy.settled()) == 1


def test_a_connection_that_cannot_be_recorded_is_not_made(
    make_proxy: Callable[..., Proxy], internet: Internet, site: Upstream, postgres: object
) -> None:
    proxy = make_proxy()
    proxy.allow(["site.example"])
    postgres.stop()  # type: ignore[attr-defined]
    try:
        answer = proxy.get("http://site.example/")
        assert (answer.status, answer.code) == (503, "audit_unavailable")
        assert internet.connected == []
    finally:
        postgres.start()  # type: ignore[attr-defined]
    assert proxy.get("http://site.example/").status == 200
    assert [(r["decision"], r["reason"]) for r in proxy.settled()] == [
        ("refused", "audit_unavailable"),
        ("allowed", "done"),
    ]


def test_parallel_connections_are_recorded_each(proxy: Proxy, site: Upstream) -> None:
    threads = [threading.Thread(target=proxy.get, args=("http://site.example/",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = proxy.settled()
    assert len({record["id"] for record in records}) == 20
    assert {record["reason"] for record in records} == {"done"}
