"""The way to Postgres, which breaks on demand in the middle of a commit: its outcome is unknown to who asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

_READY = b"Z\x00\x00\x00\x05"
"""How a server's answer ends: ReadyForQuery, with its length."""

When = Literal["before", "after"]


@dataclass
class _Cut:
    marker: bytes
    commit: bytes
    when: When
    done: threading.Event = field(default_factory=threading.Event)


class CutProxy:
    """Passes bytes between `url` and a server. A context manager."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        self._cut: _Cut | None = None
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def cut(self, marker: str, when: When, *, commit: str = "COMMIT") -> threading.Event:
        """Break one connection: the next that sends `marker` and then (or at once) `commit`.

        `before`: the commit never reaches the server. `after`: it is carried out, and no answer comes back. The event
        is set when that has happened.
        """
        self._cut = _Cut(marker.encode(), commit.encode(), when)
        return self._cut.done

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._open):
            _break(end)
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *self._open):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:  # shut
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            answered = threading.Event()
            muted = threading.Event()
            self._start(self._ask, client, server, muted, answered)
            self._start(self._answer, client, server, muted, answered)

    def _ask(
        self, client: socket.socket, server: socket.socket, muted: threading.Event, answered: threading.Event
    ) -> None:
        marked: _Cut | None = None
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._cut and self._cut.marker in data:
                    marked = self._cut
                if marked is not None and marked is self._cut and marked.commit in data:
                    self._cut = None
                    if marked.when == "after":
                        muted.set()
                        server.sendall(data)
                        answered.wait(10)
                    break
                server.sendall(data)
        for end in (server, client):
            _break(end)
        if marked is not None:
            marked.done.set()

    def _answer(
        self, client: socket.socket, server: socket.socket, muted: threading.Event, answered: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if muted.is_set():
                    if _READY in data:
                        answered.set()
                    continue
                client.sendall(data)
        _break(client)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def _break(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
