"""From 127.0.0.1 to the worker's proxy: each connection to the listener becomes one to `link/egress.sock`.

It looks at nothing and decides nothing: who may reach what is the worker's business. One thread, no state but the
connections: it may be killed at any time and costs only these. Bounded: MAX_CONNECTIONS at a time (more wait in the
listener's queue), and CHUNK_BYTES on the way in each direction, since nothing is read before what came is gone.
"""

from __future__ import annotations

import errno
import selectors
import socket
import sys
import time
from contextlib import suppress

MAX_CONNECTIONS = 48
"""Fewer than the worker's proxy takes."""
CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0
PAUSE_S = 0.1
"""When there are no file descriptors or no memory left to accept with."""

_AWAY = (
    b"HTTP/1.1 503 Service Unavailable (the worker does not answer)\r\n"
    b"Content-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"The worker of this task does not answer. Try again in a few seconds.\n"
)


def main(listener: socket.socket, link: str) -> int:
    """Serve until killed."""
    Forwarder(listener, link).run()
    return 0


class Half:
    """One direction: bytes from `source` to `sink`, and at their end the end."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = b""
        self.ended = False

    def read(self) -> None:
        try:
            data = self.source.recv(CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset: as good as an end
            data = b""
        self.waiting = data
        if data:
            self.write()
        else:
            self.end()

    def write(self) -> None:
        try:
            self.waiting = self.waiting[self.sink.send(self.waiting) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # nobody listens there any more: what it says itself may still be heard
            self.waiting = b""
            self.end()

    def end(self) -> None:
        self.ended = True
        with suppress(OSError):
            self.sink.shutdown(socket.SHUT_WR)


class Pair:
    """One connection of a command and its connection to the worker."""

    def __init__(self, client: socket.socket, worker: socket.socket) -> None:
        self.client = client
        self.worker = worker
        self.up = Half(client, worker)
        self.down = Half(worker, client)
        self.closed = False

    def wants(self, end: socket.socket) -> int:
        """The events that something is to be done at."""
        reading = self.up if end is self.client else self.down
        writing = self.down if end is self.client else self.up
        events = 0 if reading.ended or reading.waiting else selectors.EVENT_READ
        return events | (selectors.EVENT_WRITE if writing.waiting else 0)

    def act(self, end: socket.socket, events: int) -> None:
        reading = self.up if end is self.client else self.down
        writing = self.down if end is self.client else self.up
        if events & selectors.EVENT_WRITE and writing.waiting:
            writing.write()
        if events & selectors.EVENT_READ and not (reading.ended or reading.waiting):
            reading.read()

    @property
    def over(self) -> bool:
        """Once the worker has ended, and all that it said is delivered, nothing that a client adds matters."""
        return self.down.ended and not self.down.waiting


class Forwarder:
    """`run` never returns."""

    def __init__(self, listener: socket.socket, link: str) -> None:
        self._listener = listener
        self._link = link
        self._selector = selectors.DefaultSelector()
        self._pairs = 0
        self._listening = False
        listener.setblocking(False)

    def run(self) -> None:
        while True:
            self._listen(self._pairs < MAX_CONNECTIONS)
            for key, events in self._selector.select():
                if key.data is None:
                    self._accept()
                elif not key.data.closed:  # its other end may just have ended both
                    pair: Pair = key.data
                    self._act(pair, pair.client if key.fileobj is pair.client else pair.worker, events)

    def _listen(self, wanted: bool) -> None:
        if wanted != self._listening:
            if wanted:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)
            self._listening = wanted

    def _accept(self) -> None:
        try:
            client, _address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            time.sleep(PAUSE_S)
            return
        worker = self._connect(client)
        if worker is None:
            return
        for end in (client, worker):
            end.setblocking(False)
        pair = Pair(client, worker)
        self._pairs += 1
        for end in (client, worker):
            self._selector.register(end, selectors.EVENT_READ, pair)

    def _connect(self, client: socket.socket) -> socket.socket | None:
        worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        worker.settimeout(CONNECT_TIMEOUT_S)
        try:
            worker.connect(self._link)
        except OSError as error:
            print(f"farhand: no way to the worker's proxy: {error}", file=sys.stderr)
            worker.close()
            with suppress(OSError):
                client.settimeout(CONNECT_TIMEOUT_S)
                client.sendall(_AWAY)
                client.shutdown(socket.SHUT_WR)
            client.close()
            return None
        return worker

    def _act(self, pair: Pair, end: socket.socket, events: int) -> None:
        pair.act(end, events)
        if pair.over:
            self._close(pair)
            return
        for each in (pair.client, pair.worker):
            self._watch(pair, each)

    def _watch(self, pair: Pair, end: socket.socket) -> None:
        wanted = pair.wants(end)
        watched = self._selector.get_map().get(end)
        if watched is None and wanted:
            self._selector.register(end, wanted, pair)
        elif watched is not None and not wanted:
            self._selector.unregister(end)
        elif watched is not None and watched.events != wanted:
            self._selector.modify(end, wanted, pair)

    def _close(self, pair: Pair) -> None:
        pair.closed = True
        self._pairs -= 1
        for end in (pair.client, pair.worker):
            if self._selector.get_map().get(end) is not None:
                self._selector.unregister(end)
            end.close()
