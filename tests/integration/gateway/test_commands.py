"""Commands over the stream do what REST does, once for each `request_id`."""

from __future__ import annotations

from typing import Any

import pytest

from infra.ids import new_id
from tests.integration.gateway.client import Client, Frame
from tests.integration.gateway.conftest import Open
from tests.integration.gateway.writer import Writer
from tests.world import World

REPO = "https://git.example.org/owner/name"


def answer_to(client: Client, type_: str, **fields: Any) -> Frame:
    client.send(type_, **fields)
    return client.until(lambda frame: frame.get("request_id") == fields["request_id"])[-1]


def test_a_task_is_started_and_followed_on_the_same_socket(stream: Open) -> None:
    with stream() as client:
        ack = answer_to(client, "start_task", request_id="s1", repo_url=REPO, prompt="do it", budget_usd=1.5)
        assert ack["type"] == "ack"
        task = ack["task"]
        assert (task["status"], task["repo_url"], task["budget_usd"]) == ("pending", REPO, 1.5)
        client.subscribe(task["id"])
        client.until_seq(task["id"], 1)


def test_sent_twice_is_done_once(stream: Open, world: World) -> None:
    fields = {"request_id": "s2", "repo_url": REPO, "prompt": "do it once"}
    with stream() as client:
        first = answer_to(client, "start_task", **fields)
    with stream() as client:  # the ack was lost with the socket, say
        second = answer_to(client, "start_task", **fields)
        assert second["task"] == first["task"]
        other = answer_to(client, "start_task", **{**fields, "prompt": "something else"})
        assert (other["type"], other["code"]) == ("error", "idempotency_mismatch")


def test_a_message_is_stored_once(stream: Open, writer: Writer) -> None:
    with stream() as client:
        client.subscribe(writer.task_id)
        for _ in range(2):
            ack = answer_to(client, "send_message", request_id="m", task_id=writer.task_id, text="and the tests")
            assert ack["task"]["id"] == str(writer.task_id)
        answer_to(client, "send_message", request_id="m2", task_id=writer.task_id, text="thanks")
        client.until_seq(writer.task_id, 4)
        assert client.types[-2:] == ["message", "message"]


def test_cancel(stream: Open, world: World) -> None:
    task_id = world.task()
    with stream() as client:
        client.subscribe(task_id)
        client.until_seq(task_id, 1)
        assert answer_to(client, "cancel", request_id="c", task_id=task_id)["task"]["status"] == "cancelled"
        client.until_seq(task_id, 2)
        assert client.types == ["task_created", "cancelled"]


@pytest.mark.parametrize(
    ("type_", "fields"),
    [("send_message", {"text": "hi"}), ("cancel", {}), ("answer", {"question_id": "q", "text": "yes"})],
)
def test_tasks_of_others_are_not_found(stream: Open, world: World, type_: str, fields: dict[str, str]) -> None:
    with stream() as client:
        for task_id in (new_id(), World.make(world.services).task()):
            refused = answer_to(client, type_, request_id=str(new_id()), task_id=task_id, **fields)
            assert (refused["type"], refused["code"]) == ("error", "not_found")


def test_an_answer_that_nobody_asked_for(stream: Open, writer: Writer) -> None:
    with stream() as client:
        refused = answer_to(client, "answer", request_id="a", task_id=writer.task_id, question_id="q", text="yes")
        assert refused["code"] == "no_question"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"repo_url": "file:///etc/passwd"}, "repo_scheme_refused"),
        ({"repo_url": "http://127.0.0.1/x"}, "repo_host_private"),
        ({"repo_url": REPO, "model": "no-such-model"}, "unknown_model"),
        ({"repo_url": REPO, "budget_usd": 10**5}, "budget_too_large"),
        ({"project_id": str(new_id())}, "not_found"),
        ({"repo_url": REPO, "base_branch": "--upload-pack=x"}, "invalid_frame"),
        ({"repo_url": REPO, "unknown": 1}, "invalid_frame"),
        ({}, "invalid_frame"),
    ],
)
def test_what_rest_refuses_is_refused_here(stream: Open, fields: dict[str, Any], code: str) -> None:
    with stream() as client:
        refused = answer_to(client, "start_task", request_id=str(new_id()), prompt="p", **fields)
        assert (refused["type"], refused["code"]) == ("error", code)
        assert refused["hint"]


@pytest.mark.parametrize("garbage", ["", "{", "null", "[]", "\0", '{"type":"x"}', "x" * 100_000, "[" * 50_000])
def test_garbage_is_refused_and_the_stream_goes_on(stream: Open, garbage: str) -> None:
    with stream() as client:
        client.socket.send(garbage)
        assert client.receive()["code"] == "invalid_frame"
        client.send("ping", request_id="p")
        assert client.receive() == {"type": "pong", "request_id": "p"}


def test_a_message_that_is_too_big_closes(stream: Open) -> None:
    with stream() as client:
        client.socket.send("x" * (2**20 + 1))
        assert client.close_code() == 1009


def test_a_binary_message_closes(stream: Open) -> None:
    with stream() as client:
        client.socket.send(b'{"type":"ping"}')
        assert client.close_code() == 1003
