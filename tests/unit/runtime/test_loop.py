"""The agent loop: every stop reason, tool calls in order, bad calls, user messages, limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.runtime.conftest import Sandbox
from tests.unit.runtime.linkserver import Reply, refuses, says, text, tool_use


def last_turn(body: dict[str, Any]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = body["messages"][-1]["content"]
    return content


def test_a_task_is_done_step_by_step(sandbox: Sandbox) -> None:
    server = sandbox.run(
        says("I look.", tool_use("read_file", "a", path="hello.py")),
        says(tool_use("edit_file", "b", path="hello.py", old="hello", new="hi")),
        says(tool_use("run_command", "c", command="python3 hello.py || cat hello.py")),
        says("It says hi now."),
    )
    assert server.requests == [
        ("GET", "/job"),
        *[("POST", path) for path in ("/v1/messages", "/calls", "/results") * 3],
        ("POST", "/v1/messages"),
        ("POST", "/finish"),
    ]
    assert server.finish == {"step": 4, "final_message": "It says hi now.", "error": None}
    assert server.outputs[0] == "     1\tprint('hello')\n"
    assert server.outputs[1] == "Edited hello.py: replaced 1 occurrence, at line 1."
    assert "hi" in server.outputs[2]
    assert server.outputs[2].endswith("[exit code 0]")
    assert [calls["step"] for calls in server.calls] == [1, 2, 3]
    assert server.calls[0]["calls"] == [
        {"index": 0, "tool_use_id": "a", "tool": "read_file", "args": {"path": "hello.py"}}
    ]


def test_the_model_is_asked_as_the_messages_api_wants_it(sandbox: Sandbox) -> None:
    thinking = {"type": "thinking", "thinking": "Hm, well.", "signature": "c2ln"}
    redacted = {"type": "redacted_thinking", "data": "eA=="}
    unknown = {"type": "something_new", "payload": {"a": 1}}
    server = sandbox.run(
        says(thinking, redacted, unknown, "Look.", tool_use("read_file", "a", path="hello.py")), says("Ok.")
    )
    body = server.bodies[1]
    assert "model" not in body
    assert body["max_tokens"] == 4096
    assert body["stream"] is True
    assert [tool["name"] for tool in body["tools"]] == sandbox.job["agent"]["tools"]
    assert body["messages"] == [
        {"role": "user", "content": [text("Fix it.")]},
        {
            "role": "assistant",
            "content": [thinking, redacted, unknown, text("Look."), tool_use("read_file", "a", path="hello.py")],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "a", "content": "     1\tprint('hello')\n"}],
        },
    ]
    assert body["messages"][:1] == server.bodies[0]["messages"], "a turn, once sent, must not change"
    assert server.asked_inbox == ["m1", ""]


def test_several_calls_in_one_response_run_in_order(sandbox: Sandbox) -> None:
    server = sandbox.run(
        says(
            tool_use("run_command", "a", command="echo one > order"),
            tool_use("run_command", "b", command="echo two >> order"),
            tool_use("read_file", "c", path="order"),
        ),
        says("Done."),
    )
    assert len(server.calls) == 1
    assert [call["index"] for call in server.calls[0]["calls"]] == [0, 1, 2]
    assert [result["index"] for result in server.results] == [0, 1, 2]
    assert server.outputs[2] == "     1\tone\n     2\ttwo\n"
    assert [block["tool_use_id"] for block in last_turn(server.bodies[1])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("call", "says_what"),
    [
        (tool_use("delete_everything"), "There is no tool 'delete_everything'. The tools are: read_file"),
        (tool_use("read_file"), "`path` is missing"),
        (tool_use("read_file", path=3), "`path` must be of type string, not int"),
        (tool_use("read_file", path="hello.py", start_line=0), "`start_line` must be at least 1"),
        (tool_use("read_file", path="hello.py", start_line=True), "`start_line` must be of type integer, not bool"),
        (tool_use("read_file", path="hello.py", encoding="x"), "there is no argument `encoding`"),
        (tool_use("write_file", path="a", content="\ud800"), "half surrogate"),
        (tool_use("run_command", command="echo \0"), "NUL"),
        ({**tool_use("read_file"), "raw_input": '{"path": "hel'}, "`path` is missing"),
        ({**tool_use("read_file"), "raw_input": '["hello.py"]'}, "`path` is missing"),
    ],
)
def test_a_bad_call_is_answered_with_what_would_be_right(
    sandbox: Sandbox, call: dict[str, Any], says_what: str
) -> None:
    server = sandbox.run(says(call), says("Sorry."))
    assert server.results[0]["is_error"]
    assert says_what in server.outputs[0]
    assert last_turn(server.bodies[1])[0]["is_error"] is True
    assert server.finish["error"] is None


def test_a_tool_that_the_agent_does_not_have_is_refused(sandbox: Sandbox) -> None:
    server = sandbox.run(says(tool_use("run_command", command="touch x")), says("Ok."), tools=["read_file"])
    assert server.outputs == ["There is no tool 'run_command'. The tools are: read_file."]
    assert [tool["name"] for tool in server.bodies[0]["tools"]] == ["read_file"]
    assert not (sandbox.repo / "x").exists()


def test_an_answer_cut_at_the_output_limit_goes_on(sandbox: Sandbox) -> None:
    cut = says("I was abou", stop_reason="max_tokens")
    server = sandbox.run(cut, cut, cut, says("t to end."))
    assert "cut off" in last_turn(server.bodies[1])[0]["text"]
    assert server.finish["final_message"] == "t to end."


def test_an_answer_that_is_always_cut_is_a_failure(sandbox: Sandbox) -> None:
    server = sandbox.run(*[says("and", stop_reason="max_tokens")] * 4)
    assert server.finish["error"]["code"] == "max_tokens_reached"


def test_a_call_cut_at_the_output_limit_is_not_executed(sandbox: Sandbox) -> None:
    whole = tool_use("run_command", "a", command="touch executed")
    torn = {**tool_use("write_file", "b"), "raw_input": '{"path": "x", "content": "abc'}
    server = sandbox.run(says(whole, torn, stop_reason="max_tokens"), says("Ok."))
    assert not server.calls
    assert not (sandbox.repo / "executed").exists()
    results = last_turn(server.bodies[1])
    assert [block["tool_use_id"] for block in results] == ["a", "b"]
    assert all("not executed" in block["content"] and block["is_error"] for block in results)
    assert server.bodies[1]["messages"][1]["content"][1] == {**tool_use("write_file", "b"), "input": {}}


def test_unsigned_thinking_and_empty_text_of_a_cut_answer_are_not_sent_back(sandbox: Sandbox) -> None:
    half = {"type": "thinking", "thinking": "so", "signature": ""}
    server = sandbox.run(says(half, " ", stop_reason="max_tokens"), says("Ok."))
    assert [message["role"] for message in server.bodies[1]["messages"]] == ["user", "user"]


def test_a_paused_turn_is_sent_again_without_a_user_turn(sandbox: Sandbox) -> None:
    server = sandbox.run(says("Searching", stop_reason="pause_turn"), says("Found."))
    assert [message["role"] for message in server.bodies[1]["messages"]] == ["user", "assistant"]
    assert server.finish["final_message"] == "Found."


def test_a_stop_sequence_ends_like_a_turn(sandbox: Sandbox) -> None:
    assert sandbox.run(says("Enough.", stop_reason="stop_sequence")).finish["final_message"] == "Enough."


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("refusal", "model_refused"),
        ("model_context_window_exceeded", "context_exceeded"),
        ("the_moon_is_full", "unknown_stop_reason"),
    ],
)
def test_a_stop_reason_that_ends_the_task(sandbox: Sandbox, reason: str, code: str) -> None:
    finish = sandbox.run(says("I", stop_reason=reason)).finish
    assert finish["error"]["code"] == code
    assert finish["error"]["message"]
    assert finish["error"]["hint"]
    assert finish["step"] == 1


def test_an_empty_answer_is_asked_about_once(sandbox: Sandbox) -> None:
    server = sandbox.run(says(stop_reason="end_turn"), says("All done."))
    assert "empty" in last_turn(server.bodies[1])[0]["text"]
    assert server.finish["final_message"] == "All done."


def test_two_empty_answers_end_the_task(sandbox: Sandbox) -> None:
    server = sandbox.run(says(stop_reason="end_turn"), says(stop_reason="end_turn"))
    assert server.finish == {"step": 2, "final_message": "", "error": None}


def test_a_tool_use_without_a_call_ends_like_a_turn(sandbox: Sandbox) -> None:
    assert sandbox.run(says("Hm.", stop_reason="tool_use")).finish["final_message"] == "Hm."


def test_a_message_that_comes_while_tools_run_follows_their_results(sandbox: Sandbox) -> None:
    server = sandbox.serve(says(tool_use("read_file", "a", path="hello.py")), says("Both done."))

    def user_writes(path: str) -> None:
        if path == "/results":
            server.inbox.append({"id": "m2", "text": "Also that."})

    server.before = user_writes
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert [block["type"] for block in last_turn(server.bodies[1])] == ["tool_result", "text"]
    assert last_turn(server.bodies[1])[1]["text"] == "Also that."
    assert server.asked_inbox == ["m1", "m2"]


def test_a_message_that_comes_with_the_last_answer_is_answered_too(sandbox: Sandbox) -> None:
    server = sandbox.serve(says("First."), says("Second."))
    server.inbox.append({"id": "m2", "text": "One more."})
    server.job["inbox"] = []
    del server.inbox[1]

    def user_writes(path: str) -> None:
        if path == "/v1/messages" and not server.bodies:
            server.inbox.append({"id": "m2", "text": "One more."})

    server.before = user_writes
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert last_turn(server.bodies[1]) == [text("One more.")]
    assert server.finish["final_message"] == "Second."


def test_a_refused_finish_goes_on_with_the_message_that_came_in(sandbox: Sandbox) -> None:
    server = sandbox.serve(says("First."), says("Second."))
    server.next_status["/finish"] = [409]

    def user_writes(path: str) -> None:
        if path == "/finish" and len(server.bodies) == 1:
            server.inbox.append({"id": "m2", "text": "Wait."})

    server.before = user_writes
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert last_turn(server.bodies[1]) == [text("Wait.")]
    assert server.asked_inbox == ["m1", "m2"]
    assert server.finish["final_message"] == "Second."


def test_a_finish_refused_for_nothing_does_not_go_round_for_ever(sandbox: Sandbox) -> None:
    server = sandbox.serve(says("First."))
    server.next_status["/finish"] = [409, 409, 409]
    sandbox.start()
    code, error = sandbox.wait()
    assert code == 6
    assert "nothing to go on with" in error


def test_steps_are_limited(sandbox: Sandbox) -> None:
    reply = says(tool_use("run_command", command="echo x >> file"))
    server = sandbox.run(reply, reply, max_steps=2)
    assert server.finish["error"]["code"] == "max_steps_reached"
    assert len(server.results) == 2


def test_time_is_limited_while_a_command_runs(sandbox: Sandbox) -> None:
    server = sandbox.run(says(tool_use("run_command", command="sleep 1000")), wall_clock_s=1.0)
    assert "timeout" in server.outputs[0]
    assert server.finish["error"]["code"] == "time_limit_reached"


def test_time_is_limited_while_the_worker_says_not_now(sandbox: Sandbox) -> None:
    server = sandbox.serve(wall_clock_s=0.3)
    server.next_status["/v1/messages"] = [503] * 1000
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.finish["error"]["code"] == "time_limit_reached"


@pytest.mark.parametrize("reply", [refuses(402, "budget_exhausted"), refuses(422), refuses(504), refuses(400)])
def test_a_call_that_the_worker_refuses_ends_the_task_in_its_words(sandbox: Sandbox, reply: Reply) -> None:
    server = sandbox.run(says(tool_use("read_file", path="hello.py")), reply)
    assert server.finish == {"step": 1, "final_message": "", "error": reply["error"]}


def test_agent_files_of_the_repository_are_taken_along(sandbox: Sandbox) -> None:
    (sandbox.origin / "AGENTS.md").write_text("Run `make check`.\n")
    (sandbox.origin / "CLAUDE.md").symlink_to("AGENTS.md")
    system = sandbox.run(says("Ok.")).bodies[0]["system"][0]["text"]
    assert system.startswith("You fix code.")
    assert str(sandbox.repo) in system
    assert system.count("Run `make check`.") == 1


def test_a_long_agent_file_is_cut_and_says_so(sandbox: Sandbox) -> None:
    (sandbox.origin / "CLAUDE.md").write_text("x" * 100_000)
    system = sandbox.run(says("Ok.")).bodies[0]["system"][0]["text"]
    assert len(system) < 34_000
    assert "[cut after 32768 bytes; read CLAUDE.md for the rest]" in system


def test_an_agent_file_that_leads_out_of_the_workspace_is_not_read(sandbox: Sandbox) -> None:
    (sandbox.origin / "AGENTS.md").symlink_to("/etc/passwd")
    assert "root" not in sandbox.run(says("Ok.")).bodies[0]["system"][0]["text"]


def test_without_a_message_there_is_nothing_to_do(sandbox: Sandbox) -> None:
    assert sandbox.run(prompt="").finish["error"]["code"] == "nothing_to_do"


def test_a_repository_that_cannot_be_checked_out_is_a_clear_failure(sandbox: Sandbox) -> None:
    finish = sandbox.run(head="0" * 39 + "1").finish
    assert finish["error"]["code"] == "checkout_failed"
    assert finish["step"] == 0
