"""The first bytes of a TLS client (RFC 8446, RFC 6066): is it a ClientHello, and which name does it ask for?

A hello may be split over records, and these over packets. What is read is kept as it came and sent on unchanged.
Bounded: a hello of more than MAX_HELLO_BYTES is none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

MAX_HELLO_BYTES = 32 * 1024
MAX_RECORD_BYTES = 2**14
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED_CLIENT_HELLO = 0, 0xFE0D
_RECORD_HEAD, _MESSAGE_HEAD = 5, 4


class NotTlsError(ValueError):
    """These bytes do not begin a TLS connection."""


class Hello(NamedTuple):
    """`server_name` is the SNI in lower case, None without one. `hides_name`: it has an Encrypted Client Hello.

    `raw` is all that was read, to be sent on as it is.
    """

    raw: bytes
    server_name: str | None
    hides_name: bool


def read_hello(receive: Callable[[int], bytes]) -> Hello:
    """`receive(n)` returns up to n bytes, none at the end. Never reads beyond the record that completes the hello.

    Raises:
        NotTlsError: also for a hello that is cut, malformed or too long.
    """
    raw = bytearray()
    message = bytearray()
    while not _is_complete(message):
        start = len(raw)
        _fill(raw, start + _RECORD_HEAD, receive)
        kind, major, _minor, length = struct.unpack_from("!BBBH", raw, start)
        if kind != _HANDSHAKE or major != 3 or not 0 < length <= MAX_RECORD_BYTES:
            raise NotTlsError("not a TLS handshake record")
        if len(raw) + length > MAX_HELLO_BYTES:
            raise NotTlsError("too long for a hello")
        _fill(raw, start + _RECORD_HEAD + length, receive)
        message += raw[start + _RECORD_HEAD :]
        if message[0] != _CLIENT_HELLO:
            raise NotTlsError("not a ClientHello")
    size = int.from_bytes(message[1:_MESSAGE_HEAD], "big")
    if len(message) != _MESSAGE_HEAD + size:
        raise NotTlsError("more than a ClientHello")
    name, hides_name = _parse(bytes(message[_MESSAGE_HEAD:]))
    return Hello(bytes(raw), name, hides_name)


def _is_complete(message: bytearray) -> bool:
    if len(message) < _MESSAGE_HEAD:
        return False
    size = int.from_bytes(message[1:_MESSAGE_HEAD], "big")
    if size > MAX_HELLO_BYTES:
        raise NotTlsError("too long for a hello")
    return len(message) >= _MESSAGE_HEAD + size


def _fill(raw: bytearray, size: int, receive: Callable[[int], bytes]) -> None:
    while len(raw) < size:
        piece = receive(size - len(raw))
        if not piece:
            raise NotTlsError("the hello is cut")
        raw += piece


class _Reader:
    """Takes fields off the front of bytes. Raises NotTlsError when there are too few."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise NotTlsError("a malformed ClientHello")
        self._at, start = end, self._at
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)


def _parse(body: bytes) -> tuple[str | None, bool]:
    reader = _Reader(body)
    reader.take(2 + 32)  # version, random
    reader.vector(1)  # session
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression
    if reader.at_end:
        return None, False
    extensions = _extensions(reader.vector(2))
    if not reader.at_end:
        raise NotTlsError("a malformed ClientHello")
    named = extensions.get(_SERVER_NAME)
    return None if named is None else _host_name(named), _ENCRYPTED_CLIENT_HELLO in extensions


def _extensions(data: bytes) -> dict[int, bytes]:
    reader, found = _Reader(data), dict[int, bytes]()
    while not reader.at_end:
        kind, content = reader.number(2), reader.vector(2)
        if kind in found:  # forbidden, and which of two names a server would take is anyone's guess
            raise NotTlsError("an extension twice")
        found[kind] = content
    return found


def _host_name(extension: bytes) -> str:
    """The one name of a server_name extension. RFC 6066 knows one type of name, and no second name of a type."""
    outer = _Reader(extension)
    names = _Reader(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != 0 or not name or not names.at_end or not outer.at_end:
        raise NotTlsError("a malformed server name")
    try:
        return name.decode("ascii").lower()
    except UnicodeDecodeError:
        raise NotTlsError("a malformed server name") from None
