"""ClientHellos as Python's own TLS library sends them, and what can be done to them."""

from __future__ import annotations

import ssl
import struct
from contextlib import suppress
from functools import lru_cache


@lru_cache
def client_hello(name: str | None, *, oldest: bool = False) -> bytes:
    """The first flight of a client that asks for `name`, one record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if oldest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def fragments(hello: bytes, count: int) -> bytes:
    """The same handshake message in `count` records."""
    message = hello[5:]
    size = -(-len(message) // count)
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(hello[:3] + struct.pack("!H", len(piece)) + piece for piece in pieces)


def with_extension(hello: bytes, kind: int, content: bytes) -> bytes:
    """The hello with one extension more, at the end."""
    message = bytearray(hello[9:])
    at = 34
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    at += 1 + message[at]
    more = struct.pack("!HH", kind, len(content)) + content
    length = int.from_bytes(message[at : at + 2], "big") + len(more)
    message[at : at + 2] = length.to_bytes(2, "big")
    message += more
    return hello[:3] + struct.pack("!HB", len(message) + 4, 1) + len(message).to_bytes(3, "big") + bytes(message)
