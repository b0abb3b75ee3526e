"""CONNECT: the tunnel of one client, opened only for whom it was asked for.

The first bytes must be a ClientHello whose SNI is the host of the CONNECT, or nothing is sent on: else one allowed name
would open every host of the same address. Exceptions: an address has no name, so there the SNI must be absent; and
behind a host and port that the operator listed literally may be something else than TLS. An Encrypted Client Hello
hides the name that counts, which is as if there were none.

What is said inside TLS is not seen: who allows a host allows whatever that host does with a request (domain fronting
by an inner Host header, uploads).
"""

from __future__ import annotations

from functools import partial

from gevent import Timeout, socket

from workers.egress.bounds import Bounds, Meter
from workers.egress.hello import Hello, NotTlsError, read_hello
from workers.egress.policy import Target
from workers.egress.pump import pump, receive, run_both, send

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_TLS_HANDSHAKE = b"\x16"
# Fatal alerts, which a TLS client shows to its user: 112 unrecognized_name, 49 access_denied.
_UNRECOGNIZED_NAME = b"\x15\x03\x01\x00\x02\x02\x70"
_ACCESS_DENIED = b"\x15\x03\x01\x00\x02\x02\x31"


class HelloRefusedError(Exception):
    """The first bytes are not what may pass. `code` goes into the audit record, `alert` to the client."""

    def __init__(self, code: str, alert: bytes) -> None:
        super().__init__(code)
        self.code = code
        self.alert = alert


class Tunnel:
    """`early` is what came with the request already."""

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        target: Target,
        *,
        early: bytes,
        meter: Meter,
        bounds: Bounds,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._target = target
        self._early = early
        self._meter = meter
        self._bounds = bounds

    def run(self) -> str:
        """Returns how it ended. Raises HelloRefusedError, SpentError, OSError."""
        send(self._client, ESTABLISHED, self._meter)
        down = partial(pump, self._upstream, self._client, self._meter.pass_down, self._meter)
        if self._target.listed:
            # A server that is no TLS server may speak first.
            refused: list[HelloRefusedError] = []
            outcome = run_both(partial(self._up, refused), down)
            if refused:
                raise refused[0]
            return outcome
        self._send_hello()
        return run_both(self._pump_up, down)

    def _up(self, refused: list[HelloRefusedError]) -> None:
        try:
            self._send_hello()
        except HelloRefusedError as error:
            refused.append(error)
            raise ConnectionAbortedError from error
        self._pump_up()

    def _pump_up(self) -> None:
        if self._early:
            self._pass_up(self._receive(len(self._early)))
        pump(self._client, self._upstream, self._meter.pass_up, self._meter)

    def _send_hello(self) -> None:
        """Check the first bytes, then send them on."""
        patience = None if self._target.listed else self._bounds.hello_s
        with Timeout(patience, HelloRefusedError("hello_timeout", _ACCESS_DENIED)):
            first = self._receive(1)
            if not first:
                raise ConnectionAbortedError
            self._early = first + self._early
            if self._target.listed and first != _TLS_HANDSHAKE:
                return
            try:
                hello = read_hello(self._receive)
            except NotTlsError as error:
                raise HelloRefusedError("not_tls", _ACCESS_DENIED) from error
        _check_name(hello, self._target)
        self._pass_up(hello.raw)

    def _receive(self, size: int) -> bytes:
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        return receive(self._client, self._meter, size)

    def _pass_up(self, data: bytes) -> None:
        self._meter.pass_up(len(data))
        send(self._upstream, data, self._meter)


def _check_name(hello: Hello, target: Target) -> None:
    if hello.hides_name:
        raise HelloRefusedError("sni_hidden", _ACCESS_DENIED)
    if hello.server_name == target.tls_name:
        return
    raise HelloRefusedError("sni_missing" if hello.server_name is None else "sni_differs", _UNRECOGNIZED_NAME)
