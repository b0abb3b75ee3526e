"""A way between two parts that can be cut, or fall silent, while both of them go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

PIECE = 65536
ANSWER_S = 10.0
_ROUNDS = 5


class TcpProxy:
    """Passes bytes between a port of its own on loopback and `target`, another port there.

    whole    bytes go through
    cut      every connection is broken, and new ones are closed at once
    silent   connections stay, new ones are taken, and nothing goes through until `mend`: then what waited does
    """

    def __init__(self, roads: Roads, target: int) -> None:
        self._roads = roads
        self._target = target
        self._broken = False
        self._flowing = asyncio.Event()
        self._writers: WeakSet[asyncio.StreamWriter] = WeakSet()
        self._carrying: set[asyncio.Task[Any] | None] = set()
        """asyncio itself forgets a task that waits for ends of which neither can be read any more."""
        self.refused = 0
        """Connections that were tried while it was cut."""
        self.port = roads.do(self._open())

    def cut(self) -> None:
        self._roads.do(self._cut())

    def silence(self) -> None:
        self._roads.do(self._set_flowing(flows=False))

    def mend(self) -> None:
        self._broken = False
        self._roads.do(self._set_flowing(flows=True))

    async def _open(self) -> int:
        self._flowing.set()
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0, backlog=512)
        return int(self._server.sockets[0].getsockname()[1])

    async def end(self) -> None:
        """Nothing of it is left open. For `Roads`."""
        self._server.close()
        await self._cut()
        self._flowing.set()

    async def _cut(self) -> None:
        self._broken = True
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _set_flowing(self, *, flows: bool) -> None:
        if flows:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._broken:
            self.refused += 1
            writer.transport.abort()
            return
        ends = [writer]
        self._carrying.add(mine := asyncio.current_task())
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(far_writer)
            self._writers.add(far_writer)
            if self._broken:  # it was cut while we went there
                await self._cut()
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except OSError:  # the part behind is down: so are we
            writer.transport.abort()
        finally:
            self._carrying.discard(mine)
            for end in ends:
                end.close()  # what was written still goes out

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(PIECE):
                await self._flowing.wait()
                sink.write(piece)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()
        except OSError:  # cut, or an end that is gone: then so is the other one
            sink.transport.abort()


class Roads:
    """All proxies of a run, on one thread. `close` ends them."""

    def __init__(self) -> None:
        self._ways: list[TcpProxy] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="roads", daemon=True)
        self._thread.start()

    def to(self, target: int) -> TcpProxy:
        way = TcpProxy(self, target)
        self._ways.append(way)
        return way

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_S)

    def close(self) -> None:
        """A second time it does nothing."""
        if self._loop.is_closed():
            return
        self.do(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()

    async def _end_all(self) -> None:
        for _ in range(_ROUNDS):
            for way in self._ways:
                await way.end()
            if not (tasks := asyncio.all_tasks() - {asyncio.current_task()}):
                break
            await asyncio.wait(tasks, timeout=ANSWER_S / 2 / _ROUNDS)  # they find their ends gone
        for task in tasks:  # whatever keeps it
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(_ROUNDS):  # transports close their sockets in the loop's next rounds
            await asyncio.sleep(0)
