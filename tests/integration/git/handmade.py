"""Git objects and packs made by hand, so that they can hold what git itself would not write."""

import hashlib
import zlib
from dataclasses import dataclass

_KINDS = {"commit": 1, "tree": 2, "blob": 3, "ref-delta": 7}


@dataclass(frozen=True)
class Raw:
    """One object: its kind and content. `base` is the id that a `ref-delta` applies to."""

    kind: str
    content: bytes
    base: str = ""

    @property
    def id(self) -> str:
        return hashlib.sha1(f"{self.kind} {len(self.content)}\0".encode() + self.content).hexdigest()


def blob(content: bytes) -> Raw:
    return Raw("blob", content)


def tree(*entries: tuple[str, str | bytes, str]) -> Raw:
    """Entries are (mode, name, id), written in the order and with the names that are given."""
    named = ((mode, name if isinstance(name, bytes) else name.encode(), sha) for mode, name, sha in entries)
    return Raw("tree", b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in named))


def pack(*objects: Raw) -> bytes:
    body = bytearray(b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big"))
    for raw in objects:
        body += _header(_KINDS[raw.kind], len(raw.content)) + bytes.fromhex(raw.base) + zlib.compress(raw.content)
    return bytes(body) + hashlib.sha1(body).digest()


def swelling_delta(base: Raw, times: int) -> Raw:
    """A small delta whose result repeats its base (of exactly 64 KiB) so many times."""
    assert len(base.content) == 0x10000
    copy_all = bytes([0x80])  # no offset bytes, no size bytes: from 0, and a size of 0 stands for 64 KiB
    sizes = _varint(len(base.content)) + _varint(len(base.content) * times)
    return Raw("ref-delta", sizes + copy_all * times, base.id)


def _header(kind: int, size: int) -> bytes:
    first, size = (kind << 4) | (size & 15), size >> 4
    return bytes([first | (0x80 if size else 0)]) + (_varint(size) if size else b"")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])
