"""The WebSocket server on a real TCP connection, on threads; tests/integration/gateway has it on gevent."""

from __future__ import annotations

import base64
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from simple_websocket import ConnectionClosed
from websockets.frames import Close as CloseFrame
from werkzeug.exceptions import BadRequest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import Opcode

from api.gateway.close_codes import Close
from api.gateway.framing import close_frame, frame, text_frame
from api.gateway.limits import Limits
from api.gateway.socket import Socket

DEADLINE_S = 10.0
HANDSHAKE = {
    "HTTP_HOST": "farhand.test",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_KEY": base64.b64encode(b"0" * 16).decode(),
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_PROTOCOL": "other, farhand.v1",
    "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate; client_max_window_bits",
}


class Peer:
    """The client's end: a TCP connection with small buffers, read as slowly as a test likes."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(DEADLINE_S)
        self.parser = Connection(ConnectionType.CLIENT)

    def read_head(self) -> str:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.end.recv(1)
        return head.decode()

    def events(self, size: int = 65536) -> list[Event]:
        """What one read brings; a close at the end of the connection. Damaged frames end in a close by the parser."""
        try:
            data = self.end.recv(size)
        except ConnectionResetError:
            data = b""
        self.parser.receive_data(data or None)
        return list(self.parser.events())

    def messages(self, count: int, size: int = 65536) -> list[str]:
        messages: list[str] = []
        parts: list[str] = []
        while len(messages) < count:
            for event in self.events(size):
                assert isinstance(event, TextMessage), event
                parts.append(event.data)
                if event.message_finished:
                    messages.append("".join(parts))
                    parts = []
        return messages

    def close_code(self) -> int:
        while True:
            for event in self.events():
                if isinstance(event, CloseConnection):
                    return event.code

    def send(self, event: Event) -> None:
        self.end.sendall(self.parser.send(event))


class Pair:
    """A `Socket` and its peer. What the socket receives is read by a thread, as a request's thread would."""

    def __init__(self, **limits: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
        self.peer = Peer(client)
        self._server = server
        self.socket = Socket(
            {**HANDSHAKE, "gunicorn.socket": server}, limits=Limits(**{"kernel_buffer_bytes": 8192, **limits})
        )
        self.head = self.peer.read_head()
        self.received: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.closed: ConnectionClosed | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while True:
                self.received.put(self.socket.receive())
        except ConnectionClosed as closed:
            self.closed = closed

    def ended(self) -> ConnectionClosed:
        """Waits until `receive` says that it is over."""
        self._reader.join(DEADLINE_S)
        assert self.closed is not None
        assert not self.socket.thread.is_alive()
        return self.closed

    def end(self) -> None:
        self.peer.end.close()
        self._reader.join(DEADLINE_S)
        self._server.close()


@pytest.fixture
def limits() -> dict[str, Any]:
    return {}


@pytest.fixture
def pair(limits: dict[str, Any]) -> Iterator[Pair]:
    made = Pair(**limits)
    yield made
    made.end()


def test_the_handshake_takes_the_subprotocol_and_no_extension(pair: Pair) -> None:
    assert "101" in pair.head.splitlines()[0]
    assert "sec-websocket-protocol: farhand.v1" in pair.head.lower()
    assert "extensions" not in pair.head.lower()


def test_what_is_no_handshake_is_a_bad_request() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(BadRequest):
        Socket({"HTTP_HOST": "x", "gunicorn.socket": ours}, limits=Limits())


def test_large_messages_survive_a_client_that_reads_in_sips(pair: Pair) -> None:
    sent = [f"{number}:" + "ä" * 200_000 for number in range(3)]
    for message in sent:
        pair.socket.send(message)
    assert pair.peer.messages(3, size=997) == sent


def test_frames_of_many_senders_and_pongs_are_never_mixed(pair: Pair) -> None:
    senders = 8

    def send(sender: int) -> None:
        for number in range(20):
            pair.socket.send(f"{sender} {number} " + "x" * (7000 if number % 2 else 3))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    for number in range(20):
        pair.peer.send(Ping(payload=str(number).encode()))
    pongs: list[bytes] = []
    order: dict[str, list[int]] = {str(sender): [] for sender in range(senders)}
    parts: list[str] = []
    while len(pongs) < 20 or sum(map(len, order.values())) < senders * 20:
        for event in pair.peer.events(1000):
            if isinstance(event, Pong):
                pongs.append(bytes(event.payload))
                continue
            assert isinstance(event, TextMessage), event
            parts.append(event.data)
            if event.message_finished:
                sender, count, rest = "".join(parts).split(" ")
                assert rest in ("x" * 7000, "xxx")
                order[sender].append(int(count))
                parts = []
    for thread in threads:
        thread.join()
    assert pongs == [str(number).encode() for number in range(20)]
    assert all(numbers == list(range(20)) for numbers in order.values())


def test_one_framed_message_serves_many_sockets(pair: Pair) -> None:
    other = Pair()
    shared = text_frame("shared " + "x" * 70_000)
    for one in (pair, other):
        one.socket.send_frame(shared)
    assert pair.peer.messages(1) == other.peer.messages(1)
    other.end()


@pytest.mark.parametrize("limits", [{"queue_bytes": 200_000, "close_timeout_s": DEADLINE_S}])
def test_a_slow_consumer_is_closed_with_4108_between_frames(pair: Pair) -> None:
    began = monotonic()
    for _ in range(50):
        pair.socket.send("x" * 50_000)
    assert monotonic() - began < 1.0, "a sender waited for the client"
    assert pair.socket._unsent <= 2 * 200_000
    assert pair.peer.close_code() == Close.SLOW_CONSUMER[0]
    pair.peer.end.close()
    assert pair.ended().reason == Close.SLOW_CONSUMER[0]


@pytest.mark.parametrize("limits", [{"lag_bytes": 50_000}])
def test_a_client_that_lags_has_no_room_until_it_drained(pair: Pair) -> None:
    drained = threading.Event()
    pair.socket.on_drained = drained.set
    assert pair.socket.has_room()
    for _ in range(20):
        pair.socket.send("x" * 20_000)
    assert not pair.socket.has_room()
    assert not drained.is_set()
    pair.peer.messages(20)
    assert drained.wait(DEADLINE_S)
    assert pair.socket.has_room()


@pytest.mark.parametrize("limits", [{"send_timeout_s": 1.0, "close_timeout_s": 0.1}])
def test_a_client_that_takes_nothing_is_cut_off(pair: Pair) -> None:
    pair.socket.send("x" * 10_000_000)
    pair.peer.end.recv(1000)  # the writer is at it
    now = monotonic()
    pair.socket.tick(now + 0.5)
    assert not pair.socket.closing
    pair.socket.tick(now + 2.0)
    assert pair.socket.closing
    pair.socket.tick(now + 3.0)
    assert pair.ended().reason == Close.SLOW_CONSUMER[0]


@pytest.mark.parametrize("limits", [{"heartbeat_s": 1.0, "pong_timeout_s": 1.0}])
def test_a_silent_client_is_pinged_and_given_up(pair: Pair) -> None:
    now = monotonic()
    pair.socket.tick(now + 0.5)
    pair.socket.tick(now + 1.5)
    assert pair.peer.events() == [Ping(payload=b"")]
    pair.socket.tick(now + 2.0)
    assert not pair.socket.closing
    pair.socket.tick(now + 3.0)
    assert pair.peer.close_code() == Close.UNRESPONSIVE[0]


@pytest.mark.parametrize("limits", [{"heartbeat_s": 1.0, "pong_timeout_s": 1.0}])
def test_a_client_that_answers_pings_stays(pair: Pair) -> None:
    pair.socket.tick(monotonic() + 1.5)
    pair.peer.events()
    pair.peer.send(Pong(payload=b""))
    pair.peer.send(TextMessage(data="then"))
    pair.received.get(timeout=DEADLINE_S)
    pair.socket.tick(monotonic() + 5.0)
    assert not pair.socket.closing


@pytest.mark.parametrize("limits", [{"message_bytes": 1000}])
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([TextMessage(data="x" * 1001)], 1009),
        ([TextMessage(data="x" * 600, message_finished=False), TextMessage(data="ä" * 201)], 1009),
        ([BytesMessage(data=b"{}")], 1003),
    ],
)
def test_messages_that_are_refused(pair: Pair, sent: list[Event], code: int) -> None:
    for event in sent:
        pair.peer.send(event)
    assert pair.peer.close_code() == code
    pair.peer.end.close()
    assert pair.ended().reason == code


@pytest.mark.parametrize("limits", [{"message_bytes": 1000}])
def test_a_message_in_fragments_is_one_message(pair: Pair) -> None:
    pair.peer.send(TextMessage(data="a" * 500, message_finished=False))
    pair.peer.send(Ping(payload=b"between"))
    pair.peer.send(TextMessage(data="b" * 500))
    pair.peer.send(TextMessage(data="next"))
    assert pair.received.get(timeout=DEADLINE_S) == "a" * 500 + "b" * 500
    assert pair.received.get(timeout=DEADLINE_S) == "next"


def test_empty_fragments_take_no_memory(pair: Pair) -> None:
    empty = b"\0\x80\0\0\0\0"
    pair.peer.end.sendall(b"\x01\x80\0\0\0\0" + empty * 5000)
    pair.peer.send(Ping(payload=b"all read"))
    while not any(isinstance(event, Pong) for event in pair.peer.events()):
        pass
    assert pair.socket._fragments == []
    pair.peer.end.sendall(b"\x80\x82\0\0\0\0ok")
    assert pair.received.get(timeout=DEADLINE_S) == "ok"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode that does not exist
        (b"\x09\x80\0\0\0\0", 1002),  # a control frame in fragments
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # not UTF-8
    ],
)
def test_protocol_errors_are_told_by_their_code(pair: Pair, raw: bytes, code: int) -> None:
    pair.peer.end.sendall(raw)
    assert pair.peer.close_code() == code
    pair.peer.end.close()
    assert pair.ended().reason == code


@pytest.mark.parametrize("limits", [{"messages_per_s": 0.001, "messages_burst": 5}])
@pytest.mark.parametrize("event", [TextMessage(data="x"), Ping(payload=b"x")])
def test_too_many_messages_are_closed_with_4129(pair: Pair, event: Event) -> None:
    for _ in range(6):
        pair.peer.send(event)
    assert pair.peer.close_code() == Close.RATE[0]
    assert pair.received.qsize() <= 5


def test_the_clients_close_is_answered_with_its_code(pair: Pair) -> None:
    pair.peer.send(CloseConnection(code=1001, reason="bye"))
    assert pair.peer.close_code() == 1001
    assert pair.peer.end.recv(1) == b"", "the server ends the connection first"
    pair.peer.end.close()
    assert pair.ended().reason == 1001


def test_a_close_without_a_code_is_answered_without_one(pair: Pair) -> None:
    pair.peer.end.sendall(b"\x88\x80\0\0\0\0")
    assert pair.peer.end.recv(2) == b"\x88\x00"


def test_what_was_sent_before_a_close_arrives(pair: Pair) -> None:
    pair.socket.send("x" * 300_000)
    pair.socket.close(4200, "later")
    pair.socket.send("too late")
    text = ""
    while True:
        for event in pair.peer.events():
            if isinstance(event, CloseConnection):
                assert (text, event.code) == ("x" * 300_000, 4200)
                return
            assert isinstance(event, TextMessage)
            text += event.data


@pytest.mark.parametrize("limits", [{"close_timeout_s": 1.0}])
def test_a_client_that_does_not_close_is_cut_off(pair: Pair) -> None:
    pair.socket.close(4200, "later")
    assert pair.peer.close_code() == 4200
    pair.socket.tick(monotonic() + 2.0)
    assert pair.ended().reason == 4200


def test_a_lost_connection_ends_both_threads(pair: Pair) -> None:
    pair.peer.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.peer.end.close()
    assert pair.ended().reason == 1006


def test_frames_are_what_a_client_understands() -> None:
    parser = Connection(ConnectionType.CLIENT)
    for size in (0, 1, 125, 126, 127, 65_535, 65_536, 70_000):
        parser.receive_data(text_frame("x" * size))
        assert "".join(event.data for event in parser.events() if isinstance(event, TextMessage)) == "x" * size
    parser.receive_data(frame(Opcode.PING, b"p"))
    assert list(parser.events()) == [Ping(payload=b"p")]
    reason = "ä" * 200
    parser.receive_data(close_frame(4001, reason))
    (closed,) = parser.events()
    assert isinstance(closed, CloseConnection)
    assert (closed.code, closed.reason) == (4001, "ä" * 61)
    assert CloseFrame.parse(close_frame(4001, "")[2:]) == CloseFrame(4001, "")


def test_text_that_utf_8_can_not_carry_is_sent_all_the_same() -> None:
    assert text_frame("\ud800").endswith(b"?")
