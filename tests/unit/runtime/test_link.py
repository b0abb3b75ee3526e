"""The link: what breaks, what is refused, and what then happens to the run."""

from __future__ import annotations

import threading

import pytest

from tests.unit.runtime.conftest import Sandbox
from tests.unit.runtime.linkserver import DEADLINE_S, says, tool_use

READ = says(tool_use("read_file", path="hello.py"))


@pytest.mark.parametrize("path", ["/job", "/v1/messages", "/calls", "/results", "/finish"])
@pytest.mark.parametrize("status", [503, 0])
def test_not_now_and_a_broken_connection_are_tried_again(sandbox: Sandbox, path: str, status: int) -> None:
    server = sandbox.serve(READ, says("Done."))
    server.next_status[path] = [status, status]
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.finish["final_message"] == "Done."
    assert len(server.results) == 1


def test_a_job_that_is_not_there_yet_is_asked_for_again(sandbox: Sandbox) -> None:
    server = sandbox.serve(says("Done."))
    server.next_status["/job"] = [202, 202, 202]
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.requests.count(("GET", "/job")) == 4


@pytest.mark.parametrize("path", ["/job", "/inbox", "/v1/messages", "/calls", "/results", "/finish"])
def test_an_attempt_that_lost_its_task_ends_at_once(sandbox: Sandbox, path: str) -> None:
    server = sandbox.serve(READ, says("Done."))
    server.next_status[path] = [410]
    if path == "/inbox":
        server.before = lambda path: server.inbox.append({"id": "m2", "text": "Hm."}) if path == "/calls" else None
    sandbox.start()
    assert sandbox.wait()[0] == 4
    assert server.requests[-1][1] == path, "something was still written"
    assert not server.finishes


@pytest.mark.parametrize("path", ["/job", "/v1/messages", "/calls", "/results", "/finish"])
def test_a_cancel_in_any_reply_ends_the_run(sandbox: Sandbox, path: str) -> None:
    server = sandbox.serve(READ, says("Done."))

    def cancel(asked: str) -> None:
        server.cancel = server.cancel or asked == path

    server.before = cancel
    sandbox.start()
    assert sandbox.wait()[0] == 3
    assert server.requests[-1][1] == path


@pytest.mark.parametrize("cut_after", [0, 1, 3, 5])
def test_a_stream_without_its_end_is_no_answer(sandbox: Sandbox, cut_after: int) -> None:
    answer = says("Half of this is no", " answer.")
    server = sandbox.run({**answer, "cut_after": cut_after}, answer)
    assert server.finish["error"] is None
    assert server.finish["final_message"] == "Half of this is no\n\n answer."
    assert server.finish["step"] == 1
    assert server.bodies[0] == server.bodies[1]
    assert server.asked_inbox == ["m1", "m1"]


def test_a_worker_that_is_killed_and_comes_back_finds_the_sandbox(sandbox: Sandbox) -> None:
    """Killed while a call runs: its result is recorded by the successor, and nothing runs twice."""
    server = sandbox.serve(
        says(tool_use("run_command", command="echo once >> ran; read x < ../gate")),
        says(tool_use("run_command", command="cat ran")),
        says("Done."),
    )
    announced = threading.Event()
    server.before = lambda path: announced.set() if path == "/calls" else None
    gate = sandbox.make_fifo("gate")
    sandbox.start()
    assert announced.wait(DEADLINE_S)
    with gate.open("w") as writer:  # opens when the command reads
        server.stop()
        writer.write("go on\n")
    server.restart()
    assert sandbox.wait()[0] == 0
    assert server.outputs[1] == "once\n[exit code 0]"


def test_a_sandbox_whose_worker_stays_away_ends_itself(sandbox: Sandbox) -> None:
    server = sandbox.serve(READ)
    server.before = lambda path: threading.Thread(target=server.stop).start() if path == "/calls" else None
    sandbox.start(silence_s=0.3)
    code, error = sandbox.wait()
    assert code == 5
    assert "no reply from the worker" in error


def test_a_sandbox_waits_for_its_job_as_long_as_its_worker_answers(sandbox: Sandbox) -> None:
    silence_s, polls = 2.0, 6
    server = sandbox.serve(says("Done."))
    server.next_status["/job"] = [202] * polls
    never = threading.Event()

    def hold(path: str) -> None:
        if path == "/job":  # as a worker does
            never.wait(silence_s / 4)

    server.before = hold
    sandbox.start(silence_s=silence_s)
    assert sandbox.wait()[0] == 0
    assert server.requests.count(("GET", "/job")) == polls + 1
    assert server.finish["error"] is None


def test_a_sandbox_whose_worker_dies_before_there_is_a_job_ends_itself(sandbox: Sandbox) -> None:
    server = sandbox.serve()
    server.next_status["/job"] = [202, 0]
    server.before = lambda _path: None if server.next_status["/job"] else threading.Thread(target=server.stop).start()
    sandbox.start(silence_s=0.3)
    code, error = sandbox.wait()
    assert code == 5
    assert "no reply from the worker" in error


def test_a_worker_of_another_version_gets_no_word_that_it_could_misread(sandbox: Sandbox) -> None:
    server = sandbox.serve(protocol=99)
    sandbox.start()
    code, error = sandbox.wait()
    assert code == 7
    assert "99" in error
    assert server.requests == [("GET", "/job")]


def test_an_answer_that_is_no_failure_and_no_success_is_told(sandbox: Sandbox) -> None:
    server = sandbox.serve(READ)
    server.next_status["/calls"] = [500]
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.finish["error"]["code"] == "refused"


def test_a_job_that_is_refused_is_said_in_the_log(sandbox: Sandbox) -> None:
    server = sandbox.serve()
    server.next_status["/job"] = [400]
    sandbox.start()
    code, error = sandbox.wait()
    assert code == 1
    assert "there is no job: answered 400" in error


def test_a_finish_that_the_worker_cannot_take_ends_with_a_code_of_its_own(sandbox: Sandbox) -> None:
    server = sandbox.serve(says("Done."))
    server.next_status["/finish"] = [400]
    sandbox.start()
    code, error = sandbox.wait()
    assert code == 6
    assert "refused how the run ended" in error
