"""A message while it is written: whoever joins, and whenever, sees the same text until the durable one replaces it."""

from __future__ import annotations

from typing import Any

from tests.integration.gateway.client import Client, Frame
from tests.integration.gateway.conftest import Open
from tests.integration.gateway.writer import Writer


class Screen:
    """What a client shows of a half-written message, by the rules of the contract."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.parts: dict[tuple[str, int], str] = {}
        self._next: dict[tuple[str, int], int] = {}

    def until(self, message_id: str, text: str, part: int = 0) -> None:
        """Show what comes until the part has this text."""
        while self.parts.get((message_id, part)) != text:
            self.show(self._client.receive())

    def show(self, frame: Frame) -> None:
        if frame["type"] not in {"delta", "partial"}:
            return
        key = (frame["message_id"], frame["part"]["index"])
        if frame["type"] == "partial":
            self.parts[key], self._next[key] = frame["text"], frame["next"]
            return
        assert frame["index"] == self._next.get(key, 0)
        self.parts[key] = self.parts.get(key, "") + frame["text"]
        self._next[key] = frame["index"] + 1


def following(client: Client, writer: Writer) -> Screen:
    client.subscribe(writer.task_id)
    client.until_seq(writer.task_id, writer.last_seq)
    return Screen(client)


def test_deltas_come_live(stream: Open, writer: Writer) -> None:
    with stream() as client:
        screen = following(client, writer)
        for word in ("I ", "will ", "read."):
            writer.delta("1.1", word)
        writer.delta("1.1", '{"path": "a/b"}', part=1, kind="tool_input")
        screen.until("1.1", '{"path": "a/b"}', part=1)
        assert screen.parts["1.1", 0] == "I will read."


def test_who_joins_late_gets_the_text_so_far(stream: Open, writer: Writer) -> None:
    for number in range(50):
        writer.delta("1.1", f"{number} ")
    writer.flush()
    with stream() as client:
        screen = following(client, writer)
        for number in range(50, 60):
            writer.delta("1.1", f"{number} ")
        screen.until("1.1", "".join(f"{number} " for number in range(60)))


def test_joining_while_it_is_written(stream: Open, writer: Writer) -> None:
    text = "".join(f"{number} " for number in range(2000))
    for number in range(1000):
        writer.delta("1.1", f"{number} ")
    with stream() as client:
        screen = following(client, writer)
        for number in range(1000, 2000):
            writer.delta("1.1", f"{number} ")
        screen.until("1.1", text)


def test_a_retry_voids_what_was_written(stream: Open, writer: Writer) -> None:
    with stream() as client:
        screen = following(client, writer)
        writer.delta("1.1", "a wrong start")
        screen.until("1.1", "a wrong start")
        writer.delta("1.2", "again")
        writer.delta("1.1", ", late")
        writer.delta("1.2", ", right")
        screen.until("1.2", "again, right")
        assert screen.parts["1.1", 0] == "a wrong start"
    with stream() as late:
        screen = following(late, writer)
        screen.until("1.2", "again, right")
        assert ("1.1", 0) not in screen.parts


def test_the_durable_message_replaces_it(stream: Open, writer: Writer) -> None:
    writer.delta("1.1", "half")
    with stream() as client:
        screen = following(client, writer)
        screen.until("1.1", "half")
        last = writer.message("1.1", "half and whole")
        client.until_seq(writer.task_id, last)
    with stream() as late:
        screen = following(late, writer)
        writer.delta("2.1", "next")
        screen.until("2.1", "next")
        assert screen.parts == {("2.1", 0): "next"}


def test_a_message_of_the_user_leaves_it_alone(stream: Open, writer: Writer) -> None:
    with stream() as client:
        screen = following(client, writer)
        writer.delta("1.1", "half")
        screen.until("1.1", "half")
        client.until_seq(writer.task_id, writer.message("0198-user", "wait", role="user"))
        writer.delta("1.1", " done")
        screen.until("1.1", "half done")
    with stream() as late:
        following(late, writer).until("1.1", "half done")


def test_frames_are_as_documented(stream: Open, writer: Writer) -> None:
    with stream() as client:
        following(client, writer)
        writer.delta("3.1", "ä/\U0001f600\n", part=2, kind="thinking")
        frame: dict[str, Any] = client.until_type("delta")
        assert frame == {
            "type": "delta",
            "task_id": str(writer.task_id),
            "message_id": "3.1",
            "part": {"index": 2, "kind": "thinking"},
            "index": 0,
            "text": "ä/\U0001f600\n",
        }
