"""One connection to the proxy, from its first byte to its record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

import h11
from gevent import Timeout, socket

from infra.tasks.egress import Decision
from workers.egress.bounds import Bounds, Meter, SpentError
from workers.egress.forward import Exchange
from workers.egress.journal import Journal
from workers.egress.network import Network, checked_addresses, connect_to
from workers.egress.policy import Policy
from workers.egress.pump import BROKEN
from workers.egress.refusal import Refused
from workers.egress.requests import ProxyRequest, read_request
from workers.egress.tunnel import HelloRefusedError, Tunnel

LINGER_S = 2.0
"""A refused client may still be sending: to close at once would take the answer from it."""
CUT = "cut"
"""The attempt ended while the connection was open."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What one connection may reach, where that is recorded, and what it may use."""

    policy: Policy
    journal: Journal
    meter: Meter


class Connection:
    """`admit` raises Refused while nothing may go out."""

    def __init__(self, client: socket.socket, bounds: Bounds, network: Network, admit: Callable[[], Admission]) -> None:
        self._client = client
        self._bounds = bounds
        self._network = network
        self._admit = admit
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=bounds.head_bytes)

    def run(self) -> None:
        """Raises OSError when the client is gone before anything was recorded."""
        request: ProxyRequest | None = None
        admission: Admission | None = None
        try:
            request = self._read()
            if request is None:
                return
            admission = self._admit()
            self._serve(request, admission)
        except Refused as refused:
            if admission is None:
                with suppress(Refused):
                    admission = self._admit()
            if admission is not None and not refused.recorded:
                host, port, method = (request.host, request.port, request.method) if request else ("", 0, "")
                admission.journal.refuse(host, port, method, refused)
            self._say(refused.response())

    def _read(self) -> ProxyRequest | None:
        too_slow = Refused(408, "request_too_slow", "the request did not come in time", "Send it at once.")
        self._client.settimeout(None)
        with Timeout(self._bounds.head_s, too_slow):
            return read_request(self._parser, lambda: bytes(self._client.recv(self._bounds.head_bytes)))

    def _serve(self, request: ProxyRequest, admission: Admission) -> None:
        """Raises Refused until the connection is recorded; from then on the record says how it ended."""
        target = admission.policy.judge(request.host, request.port)
        addresses = checked_addresses(self._network, target, self._bounds.resolve_s)
        record = admission.journal.open(target, addresses[0], request.method)
        address: str | None = None
        reason, decision, last_words = CUT, _ALLOWED, b""
        try:
            upstream, address = connect_to(self._network, target, addresses, self._bounds.connect_s)
            with closing(upstream):
                if request.method == "CONNECT":
                    early = self._parser.trailing_data[0]
                    reason = Tunnel(
                        self._client, upstream, target, early=early, meter=admission.meter, bounds=self._bounds
                    ).run()
                else:
                    reason, last_words = self._exchange(upstream, request, admission.meter)
        except Refused as refused:
            reason, last_words = refused.code, refused.response()
        except HelloRefusedError as refused:
            reason, decision, last_words = refused.code, _REFUSED, refused.alert
        except SpentError as spent:
            reason = spent.code
        except OSError:
            reason = BROKEN
        finally:
            try:
                if last_words:
                    self._say(last_words)
            finally:
                self._client.close()
                admission.journal.end(record, reason, admission.meter, address=address, decision=decision)

    def _exchange(self, upstream: socket.socket, request: ProxyRequest, meter: Meter) -> tuple[str, bytes]:
        """How it ended, and what is left to say where the client has heard nothing."""
        exchange = Exchange(self._client, self._parser, upstream, request, meter)
        reason = exchange.run()
        if reason == "done" or exchange.answered:
            return reason, b""
        where = f"{request.host}:{request.port}"
        return reason, Refused(502, reason, f"{where} gave no whole answer ({reason})", "Try again later.").response()

    def _say(self, last_words: bytes) -> None:
        with suppress(OSError, Timeout), Timeout(LINGER_S):
            self._client.settimeout(None)
            self._client.sendall(last_words)
            self._client.shutdown(socket.SHUT_WR)
            while self._client.recv(self._bounds.head_bytes):
                pass


_ALLOWED: Decision = "allowed"
_REFUSED: Decision = "refused"
