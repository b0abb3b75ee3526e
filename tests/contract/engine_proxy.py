"""The Docker Engine's socket, behind a door that can be shut: as if the engine were restarted, or hung."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENGINE = "/var/run/docker.sock"


class EngineProxy:
    """Passes bytes between `path` and the engine. Containers run on, whatever happens to the door."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

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
        with self._lock:
            for end in self._open:
                with suppress(OSError):  # the other side was first
                    end.shutdown(socket.SHUT_RDWR)
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(10)
        with self._lock:
            for end in self._open:
                end.close()
            self._open.clear()

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
            with self._lock:
                self._open.add(client)
            if not silent:
                self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        """One connection, to its end: an engine is asked many hundred times while a test runs."""
        engine = socket.socket(socket.AF_UNIX)
        with self._lock:
            self._open.add(engine)
        try:
            engine.connect(ENGINE)
            back = threading.Thread(target=_pass_on, args=(engine, client), daemon=True)
            back.start()
            _pass_on(client, engine)
            back.join()
        finally:
            with self._lock:
                self._open -= {client, engine}
                client.close()
                engine.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # shut
        return
