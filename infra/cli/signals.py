"""Being asked to stop, without threads: a wait that ends early when a signal comes."""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Self

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequestedError(Exception):
    """TERM, INT or HUP came: stop what runs and leave."""

    def __init__(self, asked_by: signal.Signals) -> None:
        super().__init__(asked_by.name)
        self.asked_by = asked_by


class StopSignals:
    """While entered, a signal to stop is raised by `wait`, each once. The main thread only."""

    def __init__(self) -> None:
        self._asked: list[signal.Signals] = []
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _STOP:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup asked to stay
                self._previous[number] = signal.signal(number, self._on_stop)
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _on_child)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned, it takes
        signal.set_wakeup_fd(self._previous_fd)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float) -> None:
        """Sleep until a signal comes, a child ends or the time is over. Raises StopRequestedError."""
        if not self._asked and select.select([self._reader], [], [], seconds)[0]:
            self._reader.recv(4096)
        if self._asked:
            raise StopRequestedError(self._asked.pop(0))

    def _on_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (what signal() calls)
        self._asked.append(signal.Signals(number))


def _on_child(number: int, frame: FrameType | None) -> None:
    """Having a handler is what makes the wait end."""
