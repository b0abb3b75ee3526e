"""Whom a request reaches: the addresses that were judged, with the certificate and the name of the host."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.standin.loopback import LoopbackHandler, LoopbackServer
from tests.standin.request_log import RequestLog
from workers.pull_requests.base import HostBusyError, HostRefusedError
from workers.pull_requests.pinned import PinnedHttp


class Host(LoopbackServer):
    """Answers every request with `status`, and keeps its Host header."""

    def __init__(self) -> None:
        self.status = 200
        self.names: RequestLog[str] = RequestLog()
        super().__init__(_Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(LoopbackHandler):
    server: Host

    def do_GET(self) -> None:  # noqa: N802 - the base class looks for these names
        self.server.names.add(self.headers["Host"])
        where = f"http://127.0.0.1:{self.server.port}/elsewhere"
        self.reply(self.server.status, {"Location": where}, self.path.encode())


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    server.start()
    yield server
    server.stop()


def http(
    base: str, *, allowed: tuple[str, ...] = ("localhost", "127.0.0.1"), tls: ssl.SSLContext | None = None
) -> PinnedHttp:
    return PinnedHttp(base, {}, allowed=allowed, renew=lambda: None, tls=tls)


def test_a_name_is_resolved_by_us_and_said_to_the_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy would resolve it once more, and get the token.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    answer = http(f"http://localhost:{host.port}/api").send("GET", "/x", query={"a": "b c"})
    assert (answer.status, answer.content) == (200, b"/api/x?a=b+c")
    assert host.names.snapshot() == [f"localhost:{host.port}"]


def test_redirects_are_not_followed(host: Host) -> None:
    host.status = 307
    assert http(host.base_url).send("GET", "/x").status == 307
    assert len(host.names.snapshot()) == 1


def test_private_addresses_are_refused_unless_listed(host: Host) -> None:
    for base in (host.base_url, f"http://localhost:{host.port}", "https://169.254.169.254"):
        with pytest.raises(HostRefusedError) as caught:
            http(base, allowed=()).send("GET", "/x")
        assert caught.value.code == "pull_request_host_refused"
    assert host.names.snapshot() == []


def test_a_name_that_nobody_knows_is_waited_for() -> None:
    with pytest.raises(HostBusyError) as caught:
        http("https://nobody.invalid").send("GET", "/x")
    assert caught.value.code == "pull_request_host_unreachable"


@pytest.fixture
def certified(host: Host, tmp_path: Path) -> ssl.SSLContext:
    """The host speaks TLS as `localhost` and no other; whom this context trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(chain, secret)
    host.socket = server_side.wrap_socket(host.socket, server_side=True)
    return ssl.create_default_context(cafile=str(chain))


def test_the_certificate_is_that_of_the_name(host: Host, certified: ssl.SSLContext) -> None:
    assert http(f"https://localhost:{host.port}", tls=certified).send("GET", "/x").status == 200
    with pytest.raises(HostBusyError, match="certificate"):
        http(f"https://127.0.0.1:{host.port}", tls=certified).send("GET", "/x")
    with pytest.raises(HostBusyError, match="certificate"):
        http(f"https://localhost:{host.port}").send("GET", "/x")
