"""A second attempt: nothing that is recorded is asked or executed again (G3)."""

from __future__ import annotations

import re
from typing import Any

from tests.unit.runtime.conftest import Sandbox, git
from tests.unit.runtime.linkserver import Reply, says, text, tool_use

TURN = {"role": "user", "content": [text("Fix it.")]}


def record(step: int, response: Reply, user_turn: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"step": step, "user_turn": user_turn, "response": {**response, "usage": {}}}


def recorded_call(index: int, use_id: str, output: str | None, is_error: bool = False) -> dict[str, Any]:
    return {"index": index, "tool_use_id": use_id, "output": output, "is_error": is_error}


def command(use_id: str, line: str) -> dict[str, Any]:
    return tool_use("run_command", use_id, command=line)


def test_recorded_interrupted_and_unannounced_calls(sandbox: Sandbox) -> None:
    step = record(1, says("Go.", command("a", "touch a"), command("b", "touch b"), command("c", "touch c; ls")), TURN)
    server = sandbox.run(
        says("Done."),
        attempt=2,
        prompt="",
        steps=[step],
        calls=[recorded_call(0, "a", "as recorded"), recorded_call(1, "b", None)],
    )
    assert server.calls[0]["step"] == 1
    assert [result["index"] for result in server.results] == [1, 2]
    assert server.results[0]["is_error"]
    assert "interrupted" in server.outputs[0]
    assert server.outputs[1] == "c\nhello.py\n[exit code 0]", "a recorded or interrupted call was executed"
    sent = server.bodies[0]["messages"]
    assert sent[:2] == [TURN, {"role": "assistant", "content": step["response"]["content"]}]
    assert [block.get("content") for block in sent[2]["content"][:3]] == ["as recorded", *server.outputs]
    assert "is_error" not in sent[2]["content"][0]
    assert "/tmp are gone" in sent[2]["content"][3]["text"]


def test_a_step_without_any_announced_call_runs_them_all(sandbox: Sandbox) -> None:
    step = record(1, says(command("a", "echo ran")), TURN)
    server = sandbox.run(says("Done."), attempt=2, prompt="", steps=[step])
    assert server.outputs == ["ran\n[exit code 0]"]
    assert len(server.calls) == 1


def test_calls_that_are_all_recorded_are_not_announced_again(sandbox: Sandbox) -> None:
    step = record(1, says(command("a", "exit 1")), TURN)
    server = sandbox.run(
        says("Done."), attempt=2, prompt="", steps=[step], calls=[recorded_call(0, "a", "it failed", is_error=True)]
    )
    assert not server.calls
    assert not server.results
    result = server.bodies[0]["messages"][2]["content"][0]
    assert result == {"type": "tool_result", "tool_use_id": "a", "content": "it failed", "is_error": True}


def test_a_task_whose_last_answer_was_recorded_only_finishes(sandbox: Sandbox) -> None:
    server = sandbox.run(attempt=2, prompt="", steps=[record(1, says("It was done."), TURN)])
    assert not server.bodies
    assert server.finish == {"step": 1, "final_message": "It was done.", "error": None}


def test_a_follow_up_message_goes_on_with_the_conversation(sandbox: Sandbox) -> None:
    server = sandbox.run(says("And that."), attempt=2, prompt="And that?", steps=[record(1, says("Done."), TURN)])
    sent = server.bodies[0]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert "new sandbox" in sent[2]["content"][0]["text"]
    assert sent[2]["content"][1] == text("And that?")
    assert server.finish["step"] == 2


def test_a_follow_up_after_a_refusal_is_put_to_the_model(sandbox: Sandbox) -> None:
    steps = [record(1, says("No", stop_reason="refusal"), TURN)]
    server = sandbox.run(says("Fine."), attempt=2, prompt="Then only this.", steps=steps)
    assert server.finish["error"] is None


def test_a_cut_call_gets_the_same_answer_after_a_resume(sandbox: Sandbox) -> None:
    steps = [record(1, says(command("a", "touch x"), stop_reason="max_tokens"), TURN)]
    server = sandbox.run(says("Done."), attempt=2, prompt="", steps=steps)
    assert "not executed" in server.bodies[0]["messages"][2]["content"][0]["content"]
    assert not (sandbox.repo / "x").exists()


def test_a_paused_turn_is_resumed_without_a_user_turn(sandbox: Sandbox) -> None:
    steps = [record(1, says("…", stop_reason="pause_turn"), TURN)]
    server = sandbox.run(says("Done."), attempt=2, prompt="", steps=steps)
    assert [message["role"] for message in server.bodies[0]["messages"]] == ["user", "assistant"]


def test_cut_answers_are_counted_over_a_resume(sandbox: Sandbox) -> None:
    cut = says("and", stop_reason="max_tokens")
    server = sandbox.run(cut, cut, attempt=2, prompt="", steps=[record(1, cut, TURN), record(2, cut, TURN)])
    assert server.finish["error"]["code"] == "max_tokens_reached"


def test_the_tree_of_the_last_result_is_restored(sandbox: Sandbox) -> None:
    (sandbox.origin / "gone.txt").write_text("to be deleted\n")
    (sandbox.origin / "dir").mkdir()
    (sandbox.origin / "dir" / "file").write_text("a directory that becomes a file\n")
    base = sandbox.commit()
    git(sandbox.origin, "rm", "-q", "gone.txt", "dir/file")
    (sandbox.origin / "dir").write_text("now a file\n")
    (sandbox.origin / "run.sh").write_text("#!/bin/sh\n")
    (sandbox.origin / "run.sh").chmod(0o755)
    (sandbox.origin / "link").symlink_to("hello.py")
    (sandbox.origin / "hello.py").write_text("print('changed')\n")
    after = sandbox.commit()
    tree = git(sandbox.origin, "rev-parse", f"{after}^{{tree}}")
    look = "git rev-parse HEAD; git branch --show-current; git status --short; cat hello.py link dir; ls -l run.sh"
    step = record(1, says(command("a", look)), TURN)
    server = sandbox.run(says("Done."), attempt=2, prompt="", base=base, tree=tree, steps=[step])
    lines = server.outputs[0].splitlines()
    assert lines[:2] == [base, "farhand/1"]
    assert sorted(lines[2:8]) == sorted([" D dir/file", " D gone.txt", " M hello.py", "?? dir", "?? link", "?? run.sh"])
    assert lines[8:11] == ["print('changed')", "print('changed')", "now a file"]
    assert re.match("-rwxr-xr-x", lines[11])
    assert server.results[0]["tree"] == server.results[0]["parent"] == tree


def test_the_branch_so_far_is_the_head(sandbox: Sandbox) -> None:
    base = sandbox.commit()
    (sandbox.origin / "more.txt").write_text("from an earlier run\n")
    head = sandbox.commit()
    look = command("a", "git log --format=%H; git status --short; cat more.txt")
    server = sandbox.run(says(look), says("Done."), base=base, head=head)
    assert server.outputs[0].splitlines() == [head, base, "from an earlier run", "[exit code 0]"]
