"""The Docker Engine's socket, behind a door that can be shut: as if the engine were restarted, or hung."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENGINE = "/var/run/docker.sock"


class EngineProxy:
    """Passes bytes between `path` and the engine. Containers run on, whatever happens to the door."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def open(self, *, silent: bool = False) -> None:
        """Listen. When `silent`, connections are taken and nothing is ever answered."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._start(self._accept, self._listener, silent)

    def shut(self) -> None:
        """Nobody listens, and every connection is broken."""
        self.path.unlink()
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for end in self._open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:  # the other side was first
                continue
        for thread in self._threads:
            thread.join(10)
        for end in self._open:
            end.close()
        self._open, self._threads = [], []

    @contextmanager
    def away(self) -> Iterator[None]:
        """Shut while entered; open again afterwards, whatever happens, so that others can clean up."""
        self.shut()
        try:
            yield
        finally:
            self.open()

    def _accept(self, listener: socket.socket, silent: bool) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:  # shut
                return
            self._open.append(client)
            if not silent:
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(ENGINE)
                self._open.append(engine)
                self._start(_pass_on, client, engine)
                self._start(_pass_on, engine, client)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # shut
        return
