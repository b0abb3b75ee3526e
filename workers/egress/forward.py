"""Plain HTTP: one request sent on, one response sent back, and the connection is over.

Both sides are parsed and written anew: the request goes out with the Host of its own address, with nothing that is
between neighbours only, and with no header of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import h11
from gevent import socket

from workers.egress.bounds import Meter
from workers.egress.pump import receive, run_both, send
from workers.egress.requests import ProxyRequest, without_hop_by_hop

MAX_RESPONSE_HEAD_BYTES = 64 * 1024
UPSTREAM_INVALID = "upstream_invalid"
CLIENT_INVALID = "request_invalid"


class Exchange:
    """`parser` is the client's, which has read the head of `request`."""

    def __init__(
        self,
        client: socket.socket,
        parser: h11.Connection,
        upstream: socket.socket,
        request: ProxyRequest,
        meter: Meter,
    ) -> None:
        self._client = client
        self._parser = parser
        self._upstream = upstream
        self._remote = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_HEAD_BYTES)
        self._request = request
        self._meter = meter
        self._fault = ""
        self.answered = False
        """The client has got a part of the response: it can only be cut now."""

    def run(self) -> str:
        """Returns how it ended. A server may answer before it has read the whole request."""
        request = self._request
        head = h11.Request(method=request.verb, target=request.path, headers=list(request.headers))
        self._pass_up(self._remote.send(head))
        outcome = run_both(partial(self._guarded, self._down), partial(self._guarded, self._up), until_first=True)
        return self._fault or outcome

    def _guarded(self, direction: Callable[[], None]) -> None:
        """What one side says wrong ends the exchange."""
        try:
            direction()
        except h11.LocalProtocolError as error:  # we were made to send what the other said wrong
            self._fault = self._fault or UPSTREAM_INVALID
            raise ConnectionAbortedError from error

    def _up(self) -> None:
        if self._parser.they_are_waiting_for_100_continue:
            send(self._client, self._parser.send(h11.InformationalResponse(status_code=100, headers=[])), self._meter)
        while True:
            event = self._next_of_client()
            if not isinstance(event, h11.Data | h11.EndOfMessage):
                raise ConnectionAbortedError
            last = isinstance(event, h11.EndOfMessage)
            with suppress(ConnectionError):  # it has closed its ears; what it says counts
                self._pass_up(self._remote.send(h11.EndOfMessage() if last else event))
            if last:
                return

    def _down(self) -> None:
        while True:
            event = self._next_of_server()
            if isinstance(event, h11.Response):
                self._answer(event)
            elif isinstance(event, h11.Data):
                self._pass_down(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._pass_down(h11.EndOfMessage())
                return
            elif not isinstance(event, h11.InformationalResponse):
                self._fault = UPSTREAM_INVALID
                raise ConnectionAbortedError

    def _answer(self, response: h11.Response) -> None:
        # A chunked body has no length, whatever else is said: two lengths are how responses are smuggled.
        chunked = any(name == b"transfer-encoding" for name, _value in response.headers)
        dropped = (b"content-length",) if chunked else ()
        headers = [*without_hop_by_hop(response.headers.raw_items(), *dropped), (b"Connection", b"close")]
        self._pass_down(h11.Response(status_code=response.status_code, headers=headers, reason=response.reason))
        self.answered = True

    def _next_of_client(self) -> object:
        try:
            while (event := self._parser.next_event()) is h11.NEED_DATA:
                self._parser.receive_data(receive(self._client, self._meter))
        except h11.RemoteProtocolError as error:
            self._fault = CLIENT_INVALID
            raise ConnectionAbortedError from error
        return event

    def _next_of_server(self) -> object:
        try:
            while (event := self._remote.next_event()) is h11.NEED_DATA:
                data = receive(self._upstream, self._meter)
                self._meter.pass_down(len(data))
                self._remote.receive_data(data)
        except h11.RemoteProtocolError as error:
            self._fault = UPSTREAM_INVALID
            raise ConnectionAbortedError from error
        return event

    def _pass_up(self, data: bytes | None) -> None:
        if data:
            self._meter.pass_up(len(data))
            send(self._upstream, data, self._meter)

    def _pass_down(self, event: h11.Event) -> None:
        data = self._parser.send(event)
        if data:
            send(self._client, data, self._meter)
