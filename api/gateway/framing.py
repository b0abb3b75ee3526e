"""Frames of a WebSocket server (RFC 6455, section 5.2): unmasked, unfragmented, uncompressed.

They are the same for every client, so a message is framed once and its bytes are shared by all subscribers.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from wsproto.frame_protocol import Opcode

_FIN = 0x80
_NO_CODE_ON_THE_WIRE = frozenset({1005, 1006})
_MAX_REASON_BYTES = 123


def json_frame(message: dict[str, Any]) -> bytes:
    return text_frame(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


def text_frame(text: str) -> bytes:
    # A lone surrogate, which JSON can carry as an escape, has no UTF-8 form: escape it again instead of failing.
    return frame(Opcode.TEXT, text.encode(errors="replace"))


def close_frame(code: int, reason: str) -> bytes:
    """`reason` is cut to what a control frame takes."""
    if code in _NO_CODE_ON_THE_WIRE:
        return frame(Opcode.CLOSE, b"")
    cut = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
    return frame(Opcode.CLOSE, struct.pack("!H", code) + cut)


def frame(opcode: Opcode, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", _FIN | opcode, size)
    elif size < 2**16:
        head = struct.pack("!BBH", _FIN | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", _FIN | opcode, 127, size)
    return head + payload
