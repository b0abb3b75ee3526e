"""What a sandbox tries through its proxy and must not get: other hosts, private addresses, other names in TLS."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.egress.authority import Authority
from tests.integration.egress.internet import Internet, Proxy, ended
from tests.integration.egress.upstream import Upstream
from tests.unit.egress.hellos import client_hello, fragments, with_extension
from workers.egress.bounds import Bounds

SHORT = Bounds(head_s=0.3, hello_s=0.3, connect_s=1.0)


def test_a_host_that_is_not_allowed_is_refused_before_anybody_is_asked(
    proxy: Proxy, internet: Internet, site: Upstream
) -> None:
    internet.put("evil.example", 80, site.port)
    answer = proxy.get("http://evil.example/")
    assert (answer.status, answer.code) == (403, "host_not_allowed")
    assert "evil.example:80 is refused" in answer.reason
    error = json.loads(answer.body)["error"]
    assert "evil.example" in error["message"]
    assert "owner" in error["hint"]
    assert not internet.resolved
    assert not internet.connected
    (record,) = proxy.settled()
    assert (record["decision"], record["reason"], record["address"]) == ("refused", "host_not_allowed", None)
    assert record["ended_at"] is not None


def test_a_refused_connect_says_so_in_its_first_line(proxy: Proxy) -> None:
    """pip, npm and git show nothing else of it."""
    refusal, client = proxy.connect("evil.example:443")
    client.close()
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "host_not_allowed")
    assert "evil.example:443 is refused: this project's egress does not allow it" in refusal.reason


def test_nothing_is_reached_before_a_task_is_assigned(
    make_proxy: Callable[..., Proxy], internet: Internet, site: Upstream
) -> None:
    proxy = make_proxy()
    answer = proxy.get("http://site.example/")
    assert (answer.status, answer.code) == (503, "not_assigned")
    assert internet.resolved == []


def test_a_project_without_egress_reaches_nothing_not_even_what_the_operator_lists(
    make_proxy: Callable[..., Proxy], internet: Internet, site: Upstream
) -> None:
    proxy = make_proxy()
    proxy.allow("none", "site.example:80")
    assert proxy.get("http://site.example/").code == "egress_none"
    assert internet.resolved == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "10.0.0.1", "169.254.169.254", "0xa9fea9fe",
        "168.63.129.16", "100.100.100.200", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]", "[fd00:ec2::254]", "[fe80::1]", "[::127.0.0.1]", "localhost", "LOCALHOST.", "postgres",
        "vault.internal", "a.b.localhost", "metadata.google.internal.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("port", [80, 8080])
def test_private_addresses_are_refused_however_they_are_written(
    make_proxy: Callable[..., Proxy], internet: Internet, host: str, port: int
) -> None:
    proxy = make_proxy()
    proxy.allow("open")
    answer = proxy.get(f"http://{host}:{port}/")
    assert (answer.status, answer.code) == (403, "address_private")
    refusal, client = proxy.connect(f"{host}:{port}")
    client.close()
    assert refusal is not None
    assert refusal.code == "address_private"
    assert not internet.resolved
    assert not internet.connected


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["93.184.216.34", "192.168.0.1"],
        ["::1"],
        ["::ffff:169.254.169.254"],
        ["fe80::1%eth0"],
        ["not an address"],
    ],
)
def test_a_name_with_a_private_address_is_refused(
    proxy: Proxy, internet: Internet, site: Upstream, addresses: list[str]
) -> None:
    internet.names["site.example"] = [addresses]
    for address in addresses:
        internet.ports[address, 80] = site.port
    answer = proxy.get("http://site.example/")
    assert (answer.status, answer.code) == (403, "address_private")
    assert not any(address in answer.body.decode() + answer.reason for address in addresses)
    assert internet.connected == []
    assert proxy.settled()[0]["address"] is None


def test_a_name_that_turns_private_between_two_looks_gains_nothing(
    proxy: Proxy, internet: Internet, site: Upstream
) -> None:
    internet.names["site.example"] = [["93.184.216.34"], ["127.0.0.1"]]
    internet.ports["127.0.0.1", 80] = site.port
    assert proxy.get("http://site.example/").status == 200
    assert internet.resolved == ["site.example"], "there is no second look between check and connection"
    assert proxy.get("http://site.example/").code == "address_private"
    assert internet.connected == [("93.184.216.34", 80)]


def test_only_a_host_and_port_that_the_operator_lists_may_be_private(
    proxy: Proxy, internet: Internet, site: Upstream
) -> None:
    internet.names["mirror.corp"] = [["10.0.0.9"]]
    internet.ports["10.0.0.9", 8080] = internet.ports["10.0.0.9", 8081] = site.port
    proxy.allow("registries", "mirror.corp:8080")
    assert proxy.get("http://mirror.corp:8080/").status == 200
    assert proxy.get("http://mirror.corp:8081/").code == "address_private"
    assert proxy.get("http://10.0.0.9:8080/").code == "address_private"
    assert internet.connected == [("10.0.0.9", 8080)]


def test_an_address_without_a_name_must_be_listed(
    make_proxy: Callable[..., Proxy], internet: Internet, site: Upstream
) -> None:
    internet.ports["93.184.216.34", 80] = site.port
    proxy = make_proxy()
    proxy.allow("open")
    assert proxy.get("http://93.184.216.34/").code == "address_not_listed"
    proxy.allow(["93.184.216.34"])
    assert proxy.get("http://93.184.216.34/").status == 200
    assert internet.resolved == []


# ---- what is said first in a tunnel ------------------------------------------------------------------------------


def test_a_hello_may_come_in_pieces(proxy: Proxy, secure: Upstream) -> None:
    """Split over packets, and over TLS records."""
    for records in (1, 5):
        hello = fragments(client_hello("secure.example"), records)
        with proxy.tunnel("secure.example:443") as client:
            for start in range(0, len(hello), 7):
                client.sendall(hello[start : start + 7])
            assert client.recv(1) == b"\x16", "a ServerHello"


def test_a_hello_that_came_with_the_request_counts(proxy: Proxy, secure: Upstream) -> None:
    with proxy.dial() as client:
        head = b"CONNECT secure.example:443 HTTP/1.1\r\nHost: secure.example:443\r\n\r\n"
        client.sendall(head + client_hello("secure.example"))
        assert client.recv(39, socket.MSG_WAITALL) == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert client.recv(1) == b"\x16"


@pytest.mark.parametrize(
    ("first", "code", "alert"),
    [
        (client_hello("other.example"), "sni_differs", 112),
        (client_hello("secure.example.evil.example"), "sni_differs", 112),
        (client_hello(None), "sni_missing", 112),
        (with_extension(client_hello("secure.example"), 0xFE0D, b"\x00" * 40), "sni_hidden", 49),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls", 49),
        (b"GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n", "not_tls", 49),
        (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + b"x" * 40, "not_tls", 49),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "not_tls", 49),
        (b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000, "not_tls", 49),
    ],
    ids=["other", "longer", "missing", "hidden", "ssh", "http", "ssl2", "server", "huge"],
)
def test_a_tunnel_is_for_tls_to_the_host_that_was_asked_for(
    proxy: Proxy, secure: Upstream, first: bytes, code: str, alert: int
) -> None:
    with proxy.tunnel("secure.example:443") as client:
        client.sendall(first)
        assert client.recv(7) == bytes((21, 3, 1, 0, 2, 2, alert))
        assert ended(client)
    (record,) = proxy.settled()
    assert (record["decision"], record["reason"]) == ("refused", code)
    assert (record["bytes_up"], record["bytes_down"]) == (0, 0)


def test_a_client_is_told_by_its_own_tls_library(proxy: Proxy, secure: Upstream, authority: Authority) -> None:
    tunnel = proxy.tunnel("secure.example:443")
    context = authority.client_context()
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        context.wrap_socket(tunnel, server_hostname="other.example")
    tunnel.close()


def test_an_address_in_connect_means_no_name_in_tls(proxy: Proxy, internet: Internet, secure: Upstream) -> None:
    internet.ports["93.184.216.35", 443] = secure.port
    proxy.allow(["93.184.216.35"])
    with proxy.tunnel("93.184.216.35:443") as client:
        client.sendall(client_hello(None))
        assert client.recv(1) == b"\x16"
    with proxy.tunnel("93.184.216.35:443") as client:
        client.sendall(client_hello("secure.example"))
        assert client.recv(7)[-1] == 112


def test_behind_what_the_operator_lists_may_be_other_than_tls_but_tls_must_say_its_name(
    proxy: Proxy, internet: Internet, secure: Upstream, site: Upstream
) -> None:
    internet.ports["93.184.216.34", 8022] = site.port
    internet.ports["93.184.216.35", 8443] = secure.port
    proxy.allow("registries", "site.example:8022", "secure.example:8443")
    with proxy.tunnel("site.example:8022") as client:
        client.sendall(b"GET /raw HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert ended(client)
    assert [seen.path for seen in site.log.snapshot()] == ["/raw"]
    for first, answer in ((client_hello("other.example"), 112), (client_hello(None), 112)):
        with proxy.tunnel("secure.example:8443") as client:
            client.sendall(first)
            assert client.recv(7)[-1] == answer
    with proxy.tunnel("secure.example:8443") as client:
        client.sendall(client_hello("secure.example"))
        assert client.recv(1) == b"\x16"


# ---- slow and many -----------------------------------------------------------------------------------------------


def test_a_slow_request_is_given_up(make_proxy: Callable[..., Proxy], internet: Internet) -> None:
    proxy = make_proxy(SHORT)
    proxy.allow("open")
    answer = proxy.say(b"GET http://site.example/ HTT")
    assert (answer.status, answer.code) == (408, "request_too_slow")
    drip = proxy.dial()
    with drip:
        try:
            while True:
                drip.sendall(b"G")
        except OSError:
            pass  # it has hung up, however often something came
    assert internet.resolved == []


def test_a_slow_hello_is_given_up(make_proxy: Callable[..., Proxy], internet: Internet, secure: Upstream) -> None:
    proxy = make_proxy(SHORT)
    proxy.allow(["secure.example"])
    with proxy.tunnel("secure.example:443") as client:
        client.sendall(client_hello("secure.example")[:20])
        assert ended(client)
    assert proxy.settled()[0]["reason"] == "hello_timeout"


def test_a_flood_waits_for_itself_and_is_answered(make_proxy: Callable[..., Proxy], site: Upstream) -> None:
    """More connections than the proxy takes at once: those beyond wait, and none is lost."""
    proxy = make_proxy(Bounds(connections=4))
    proxy.allow(["site.example"])
    idle = [proxy.dial() for _ in range(4)]
    waiting = [proxy.dial() for _ in range(60)]
    for client in waiting:
        client.sendall(b"GET http://site.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
    for client in idle:
        client.close()
    answers: list[Any] = []
    for client in waiting:
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        answers.append(ended(client))
        client.close()
    assert len(answers) == 60


def test_refusals_are_recorded_up_to_a_bound_and_counted_beyond(make_proxy: Callable[..., Proxy]) -> None:
    proxy = make_proxy(Bounds(refusals_recorded=3))
    proxy.allow(["site.example"])
    for number in range(10):
        assert proxy.get(f"http://evil{number}.example/").code == "host_not_allowed"
    before = proxy.records()
    assert [(r["reason"], r["connections"]) for r in before[3:]] == [("more_not_recorded", 1)]
    records = proxy.settled()
    assert [r["host"] for r in records] == ["evil0.example", "evil1.example", "evil2.example", ""]
    assert (records[-1]["decision"], records[-1]["connections"]) == ("refused", 7)


def test_an_attempt_has_a_number_of_connections(make_proxy: Callable[..., Proxy], site: Upstream) -> None:
    proxy = make_proxy(Bounds(attempt_connections=2))
    proxy.allow(["site.example"])
    assert [proxy.get("http://site.example/").status for _ in range(3)] == [200, 200, 403]
    assert [r["reason"] for r in proxy.settled()] == ["done", "done", "too_many_connections"]
