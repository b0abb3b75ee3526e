"""Text for the model, bounded: the head and the tail are kept, what lies between is counted."""

from __future__ import annotations


class HeadAndTail:
    """Takes any amount of bytes and keeps at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._half = max(limit // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-self._half :]
        if len(self._tail) > self._half:
            del self._tail[: -self._half]

    @property
    def cut(self) -> int:
        """Number of bytes that were not kept."""
        return self._total - len(self._head) - len(self._tail)

    def text(self) -> str:
        if not self.cut:
            return readable(bytes(self._head + self._tail))
        return f"{readable(bytes(self._head))}\n[… {self.cut} bytes cut …]\n{readable(bytes(self._tail))}"


def readable(data: bytes) -> str:
    """Undecodable bytes and NULs, which no database text can hold, become replacement characters."""
    return data.decode(errors="replace").replace("\0", "\ufffd")


def bounded(data: bytes, limit: int) -> tuple[str, bool]:
    """The text, and whether something was cut."""
    kept = HeadAndTail(limit)
    kept.add(data)
    return kept.text(), bool(kept.cut)
