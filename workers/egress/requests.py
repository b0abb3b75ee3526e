"""One request to the proxy, read strictly: `CONNECT host:port`, or a plain one for `http://host[:port]/path`.

h11 does the framing and refuses what is ambiguous; nothing of the client's text is passed on as it came. A connection
carries one request: what follows it is not looked at, so there is nothing to smuggle.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import h11

from infra.egress import parse_authority
from infra.hosts import in_authority
from workers.egress.refusal import Refused

Method = Literal["CONNECT", "HTTP"]
Headers = list[tuple[bytes, bytes]]

_ABSOLUTE = re.compile(rb"http://(?P<authority>[^/?]*)(?P<rest>[/?].*)?", re.IGNORECASE)
_HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_NO_BODY = (b"content-length", b"0")
_HINT = "Use CONNECT for https, and absolute-form requests (GET http://host/path) for http."


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """`host` in normal form. For plain HTTP: `verb`, `path` with the query, and the headers to send on."""

    method: Method
    host: str
    port: int
    verb: bytes = b""
    path: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


def read_request(parser: h11.Connection, receive: Callable[[], bytes]) -> ProxyRequest | None:
    """The request at the start of a connection; None when there is none before the end. Raises Refused."""
    try:
        while (event := parser.next_event()) is h11.NEED_DATA:
            parser.receive_data(receive())
    except h11.RemoteProtocolError as error:
        status = 431 if error.error_status_hint == 431 else 400
        raise _invalid(f"not an HTTP request: {error}", status) from None
    if not isinstance(event, h11.Request):
        return None
    return _tunnel(event) if event.method == b"CONNECT" else _plain(event)


def without_hop_by_hop(pairs: Headers, *more: bytes) -> Headers:
    """What may travel on: not what is between two neighbours only, nor what `Connection` names, nor `more`."""
    named = {
        name.strip().lower()
        for key, value in pairs
        if key.lower() in {b"connection", b"proxy-connection"}
        for name in value.split(b",")
    }
    dropped = _HOP_BY_HOP | (named - _FRAMING) | set(more)
    return [(key, value) for key, value in pairs if key.lower() not in dropped]


def _tunnel(request: h11.Request) -> ProxyRequest:
    if any(name in _FRAMING and (name, value) != _NO_BODY for name, value in request.headers):
        raise _invalid("CONNECT has no body")
    host, port = _authority(request.target)
    if port is None:
        raise _invalid("CONNECT needs host:port")
    return ProxyRequest("CONNECT", host, port)


def _plain(request: h11.Request) -> ProxyRequest:
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None or b"#" in request.target:
        raise _invalid("this is a proxy for http:// addresses and CONNECT")
    host, port = _authority(found["authority"])
    names = [name for name, _value in request.headers]
    if set(names) >= _FRAMING:
        raise _invalid("both Content-Length and Transfer-Encoding")
    rest = found["rest"] or b"/"
    path = rest if rest.startswith(b"/") else b"/" + rest
    # Whose server it is says the address alone; a Host header of another one would be a way around the policy.
    shown = in_authority(host) + ("" if port in {None, 80} else f":{port}")
    headers = [(b"Host", shown.encode()), *without_hop_by_hop(request.headers.raw_items(), b"host", b"expect")]
    if b"transfer-encoding" in names:
        headers.append((b"Transfer-Encoding", b"chunked"))
    headers.append((b"Connection", b"close"))
    return ProxyRequest("HTTP", host, port or 80, request.method, path, tuple(headers))


def _authority(text: bytes) -> tuple[str, int | None]:
    try:
        return parse_authority(text.decode("ascii"))
    except ValueError:
        raise _invalid("not a host") from None


def _invalid(message: str, status: int = 400) -> Refused:
    return Refused(status, "request_invalid", message, _HINT)
