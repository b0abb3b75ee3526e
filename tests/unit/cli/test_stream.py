"""The client's side of the stream against a WebSocket server that breaks in every way that the protocol knows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from infra.client.stream import Frame, StreamRefusedError, frames
from infra.errors import NotFoundError, UnauthenticatedError

TASK = "0190a000-0000-7000-8000-000000000001"
Scene = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection, after it was authenticated and subscribed."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.auth = json.loads(socket.recv(timeout=10))
        self.subscribe = json.loads(socket.recv(timeout=10))

    def subscribed(self, last_seq: int, status: str = "running") -> None:
        self.send({"type": "subscribed", "task_id": TASK, "epoch": "1", "last_seq": last_seq, "status": status})

    def event(self, seq: int, kind: str = "message") -> None:
        data = {"role": "assistant", "text": str(seq)}
        self.send({"type": "event", "event": {"v": 1, "task_id": TASK, "seq": seq, "type": kind, "data": data}})

    def send(self, frame: Frame) -> None:
        self.socket.send(json.dumps(frame))

    def close(self, code: int) -> None:
        self.socket.close(code, "as the scene wants it")


class Stage:
    """Plays one scene for each connection, and keeps what the clients subscribed with."""

    def __init__(self, *scenes: Scene) -> None:
        self._scenes = iter(scenes)
        self.subscribed_after: list[int] = []
        self.tokens: list[str] = []

    def __call__(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        self.subscribed_after.append(peer.subscribe["after"])
        self.tokens.append(peer.auth["token"])
        next(self._scenes)(peer)


@pytest.fixture
def perform() -> Iterator[Callable[..., tuple[Stage, str]]]:
    running: list[tuple[Server, threading.Thread]] = []

    def start(*scenes: Scene) -> tuple[Stage, str]:
        stage = Stage(*scenes)
        server = serve(stage, "127.0.0.1", 0, subprotocols=[Subprotocol("farhand.v1")])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return stage, f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(10)


def seqs(received: list[Frame]) -> list[int]:
    return [frame["event"]["seq"] for frame in received if frame["type"] == "event"]


def watch(url: str, after: int = 0, **options: Any) -> list[Frame]:
    return list(frames(url, "secret", TASK, after=after, direct=True, **options))


def ending(peer: Peer) -> None:
    peer.subscribed(2)
    for seq in range(peer.subscribe["after"] + 1, 4):
        peer.event(seq, "completed" if seq == 3 else "message")
    peer.socket.recv(timeout=10)


def test_every_event_once_and_in_order_until_the_end(perform: Any) -> None:
    stage, url = perform(ending)
    assert seqs(watch(url)) == [1, 2, 3]
    assert stage.tokens == ["secret"]


def test_a_dropped_connection_is_resumed_from_what_was_applied(perform: Any) -> None:
    def dropping(peer: Peer) -> None:
        peer.subscribed(1)
        peer.event(1)
        peer.event(2)
        peer.socket.socket.shutdown(2)

    stage, url = perform(dropping, ending)
    received = watch(url)
    assert seqs(received) == [1, 2, 3]
    assert stage.subscribed_after == [0, 2]
    assert [frame["up"] for frame in received if frame["type"] == "connection"] == [False, True]


def test_a_hole_is_not_passed_on(perform: Any) -> None:
    def holed(peer: Peer) -> None:
        peer.subscribed(2)
        peer.event(1)
        peer.event(3, "completed")
        peer.socket.recv(timeout=10)

    stage, url = perform(holed, ending)
    assert seqs(watch(url)) == [1, 2, 3]
    assert stage.subscribed_after == [0, 1]


def test_repeated_events_are_dropped(perform: Any) -> None:
    def repeating(peer: Peer) -> None:
        peer.subscribed(2)
        for seq in (1, 1, 2, 1, 2):
            peer.event(seq)
        peer.event(3, "completed")
        peer.socket.recv(timeout=10)

    _, url = perform(repeating)
    assert seqs(watch(url)) == [1, 2, 3]


@pytest.mark.parametrize("code", [4200, 4108, 1011, 1001])
def test_codes_after_which_it_comes_back(perform: Any, code: int) -> None:
    def closing(peer: Peer) -> None:
        peer.subscribed(1)
        peer.event(1)
        peer.send({"type": "reconnect", "after_ms": 10})
        peer.close(code)

    stage, url = perform(closing, ending)
    assert seqs(watch(url)) == [1, 2, 3]
    assert stage.subscribed_after == [0, 1]


@pytest.mark.parametrize("code", [4001, 4003])
def test_codes_after_which_it_stays_away(perform: Any, code: int) -> None:
    stage, url = perform(lambda peer: peer.close(code))
    with pytest.raises(UnauthenticatedError, match="as the scene wants it"):
        watch(url)
    assert len(stage.tokens) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("not_found", NotFoundError),
        ("unauthenticated", UnauthenticatedError),
        ("resume_invalid", StreamRefusedError),
        ("what_ever", StreamRefusedError),
    ],
)
def test_refusals(perform: Any, code: str, error: type[Exception]) -> None:
    def refusing(peer: Peer) -> None:
        peer.send({"type": "error", "code": code, "message": "no"})
        peer.socket.recv(timeout=10)

    _, url = perform(refusing)
    with pytest.raises(error):
        watch(url)


def test_a_task_that_had_ended_before_and_was_woken_up_is_watched_to_its_last_end(perform: Any) -> None:
    def woken(peer: Peer) -> None:
        peer.subscribed(3, "running")
        for seq, kind in ((1, "message"), (2, "failed"), (3, "task_started"), (4, "message"), (5, "completed")):
            peer.event(seq, kind)
        peer.socket.recv(timeout=10)

    _, url = perform(woken)
    assert seqs(watch(url)) == [1, 2, 3, 4, 5]


def test_an_ended_task_ends_though_its_end_is_not_its_last_event(perform: Any) -> None:
    def ended(peer: Peer) -> None:
        peer.subscribed(3, "completed")
        for seq, kind in ((1, "message"), (2, "completed"), (3, "pull_request")):
            peer.event(seq, kind)
        peer.socket.recv(timeout=10)

    _, url = perform(ended)
    assert seqs(watch(url)) == [1, 2, 3]


def test_an_ended_task_that_is_retried_goes_on(perform: Any) -> None:
    def retried(peer: Peer) -> None:
        peer.subscribed(2, "pending")
        for seq, kind in ((1, "message"), (2, "failed"), (3, "task_started"), (4, "completed")):
            peer.event(seq, kind)
        peer.socket.recv(timeout=10)

    _, url = perform(retried)
    assert seqs(watch(url)) == [1, 2, 3, 4]


def test_nothing_more_of_an_ended_task(perform: Any) -> None:
    _, url = perform(lambda peer: (peer.subscribed(3, "completed"), peer.socket.recv(timeout=10)))
    assert seqs(watch(url, after=3)) == []


def test_ticks_while_nothing_comes(perform: Any) -> None:
    quiet = threading.Event()

    def slow(peer: Peer) -> None:
        peer.subscribed(0)
        quiet.wait(10)
        peer.event(1, "completed")
        peer.socket.recv(timeout=10)

    _, url = perform(slow)
    kinds = []
    for frame in frames(url, "secret", TASK, tick_s=0.02, direct=True):
        kinds.append(frame["type"])
        if kinds.count("tick") == 2:
            quiet.set()
    assert kinds[0] == "subscribed"
    assert kinds[-1] == "event"
