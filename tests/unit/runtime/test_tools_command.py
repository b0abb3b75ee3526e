"""run_command: exit codes, bounds of time and output, what a command leaves behind, hostile commands."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.runtime.conftest import HELPER_UID, IS_ROOT, LOOP_UID, Sandbox
from tests.unit.runtime.linkserver import DEADLINE_S, says, tool_use
from tests.unit.runtime.processes import is_alive, processes_of

CallTool = Callable[..., dict[str, Any]]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, to run commands as another user")


def command(line: str, **args: Any) -> dict[str, Any]:
    return tool_use("run_command", command=line, **args)


@pytest.mark.parametrize(
    ("line", "output", "is_error"),
    [
        ("echo out; echo err >&2; echo out", "out\nerr\nout\n[exit code 0]", False),
        ("exit 3", "[exit code 3]", False),
        ("printf 'no newline'", "no newline\n[exit code 0]", False),
        ("cat", "[exit code 0]", False),
        ("kill -9 $$", "[killed by signal 9 (Killed)]", True),
        ("printf 'a\\377b\\000c'", "a\ufffdb\ufffdc\n[exit code 0]", False),
        ("cd /; exec pwd", "/\n[exit code 0]", False),
        ("nosuchprogram 2>/dev/null", "[exit code 127]", False),
        ("echo ${SECRET_OF_THE_WORKER:-none}", "none\n[exit code 0]", False),
    ],
)
def test_output_and_exit_code(call: CallTool, line: str, output: str, is_error: bool) -> None:
    result = call("run_command", command=line)
    assert (result["output"], result["is_error"], result["truncated"]) == (output, is_error, False)


def test_the_process_group_is_killed_at_the_timeout(sandbox: Sandbox, call: CallTool) -> None:
    started = time.monotonic()
    result = call("run_command", command="echo begun; sleep 1000 & echo $!; sleep 1000", timeout_s=0.5)
    assert time.monotonic() - started < 15
    begun, pid, end = result["output"].splitlines()
    assert (begun, end) == ("begun", "[timeout: the command and its process group were killed after 0.5 s]")
    assert result["is_error"]
    assert not is_alive(pid)


def test_a_timeout_beyond_the_limit_is_the_limit(call: CallTool) -> None:
    result = call("run_command", {"max_command_timeout_s": 0.5}, command="sleep 1000", timeout_s=500)
    assert "after 0.5 s" in result["output"]


def test_the_default_timeout_is_that_of_the_limits(call: CallTool) -> None:
    assert "after 0.3 s" in call("run_command", {"command_timeout_s": 0.3}, command="sleep 1000")["output"]


def test_a_background_process_that_holds_the_pipe_does_not_hang_the_call(sandbox: Sandbox) -> None:
    """It lives on, is not killed by what it writes later, and ends with the sandbox."""
    fifo = sandbox.make_fifo("gate")
    server = sandbox.run(
        says(
            command(f"(read x < {fifo}; for i in $(seq 20000); do echo noise; done; echo survived > {fifo}) & echo $!")
        ),
        says(command(f"echo go > {fifo}; cat {fifo}")),
        says(command("sleep 1000 & echo $!")),
        says("Done."),
    )
    assert [result["duration_ms"] < 5000 for result in server.results] == [True] * 3
    assert server.outputs[1] == "survived\n[exit code 0]"
    assert not is_alive(server.outputs[2].splitlines()[0])


def test_a_gigabyte_of_output_is_bounded_in_time_and_memory(sandbox: Sandbox) -> None:
    server = sandbox.run(
        says(command("echo first; head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo last; exit 7")),
        says(command("grep VmHWM /proc/$PPID/status")),
        says("Done."),
    )
    output = server.outputs[0]
    assert server.results[0]["truncated"]
    assert output.startswith("first\nxxx")
    assert output.endswith("\nlast\n[exit code 7]")
    cut = re.search(r"\n\[… (\d+) bytes cut …\]\n", output)
    assert cut
    assert int(cut[1]) == 1_000_000_000 + len("first\n\nlast\n") - 20_000
    peak = re.search(r"VmHWM:\s+(\d+) kB", server.outputs[1])
    assert peak
    assert int(peak[1]) < 60_000


def test_endless_output_ends_at_the_timeout(call: CallTool) -> None:
    result = call("run_command", command="yes", timeout_s=0.5)
    assert "[timeout" in result["output"]
    assert result["truncated"]


def test_a_command_longer_than_the_kernel_takes_is_an_error(call: CallTool) -> None:
    result = call("run_command", command="echo " + "x" * 200_000)
    assert result["is_error"]
    assert "Write it to a file" in result["output"]


def test_a_removed_workspace_is_made_again(sandbox: Sandbox) -> None:
    server = sandbox.run(
        says(command('rm -rf "$PWD"')), says(command("pwd; ls -A")), says(tool_use("list_files")), says("Done.")
    )
    assert server.outputs[1] == f"{sandbox.repo}\n[exit code 0]"
    assert server.outputs[2] == "There are no files in '.'."
    assert server.results[0]["tree"] == "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "the empty tree"


@needs_root
def test_a_command_that_kills_everything_costs_the_helper_only(sandbox: Sandbox) -> None:
    server = sandbox.run(says(command("echo before > file; kill -9 -1")), says(command("cat file")), says("Done."))
    assert server.results[0]["is_error"]
    assert "The sandbox helper was killed" in server.outputs[0]
    assert "outcome of this call is unknown" in server.outputs[0]
    assert server.results[0]["tree"] not in (None, server.results[0]["parent"]), "the work before it was lost"
    assert server.outputs[1] == "before\n[exit code 0]"


@needs_root
def test_a_helper_that_dies_between_calls_is_replaced_without_a_word(sandbox: Sandbox) -> None:
    gate = sandbox.make_fifo("gate")
    server = sandbox.serve(
        says(command(f"setsid sh -c 'read x < {gate}; kill -9 -1' >/dev/null 2>&1 &")),
        says(command("echo alive")),
        says("Done."),
    )

    def kill_now(path: str) -> None:
        if path == "/v1/messages" and len(server.bodies) == 1:
            with gate.open("w") as writer:
                writer.write("now\n")
            deadline = time.monotonic() + DEADLINE_S
            while processes_of(HELPER_UID) and time.monotonic() < deadline:
                os.sched_yield()

    server.before = kill_now
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.outputs[1] == "alive\n[exit code 0]"


FORK_BOMB = "echo 'sh bomb & sh bomb & wait' > bomb; sh bomb & sleep 1000"
DETACHED = """setsid awk 'BEGIN { while (1) system("sleep 1000 &") }' 2> /dev/null & sleep 1000"""


@needs_root
@pytest.mark.parametrize("line", [FORK_BOMB, DETACHED])
def test_a_command_that_forks_without_end_is_cleaned_up(sandbox: Sandbox, line: str) -> None:
    """With a limit of processes, as every sandbox has one."""
    server = sandbox.serve(says(command(line, timeout_s=1)), says(command("echo alive")), says("Done."))
    sandbox.start(before_exec=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (80, 80)))
    code, error = sandbox.wait()
    assert code == 0, error
    assert server.outputs[1] == "alive\n[exit code 0]" or "ran out of processes" in server.outputs[1]
    assert server.results[0]["tree"]
    assert not processes_of(HELPER_UID)


@needs_root
def test_a_sandbox_without_a_free_process_says_so(sandbox: Sandbox) -> None:
    server = sandbox.serve()
    sandbox.start(before_exec=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)))
    assert sandbox.wait()[0] == 0
    assert server.finish["error"]["code"] == "checkout_failed"
    assert "ran out of processes or memory" in server.finish["error"]["message"]


@pytest.mark.slow
def test_a_helper_that_is_stopped_counts_as_killed(sandbox: Sandbox) -> None:
    server = sandbox.run(
        says(command("echo before > file; kill -STOP $PPID; sleep 1000", timeout_s=0.2)),
        says(command("cat file")),
        says("Done."),
    )
    assert "did not answer within 10 s" in server.outputs[0]
    assert server.outputs[1] == "before\n[exit code 0]"


@needs_root
def test_commands_cannot_reach_the_loop(sandbox: Sandbox) -> None:
    find = f"for p in /proc/[0-9]*; do grep -qs 'Uid:.{LOOP_UID}' $p/status && echo ${{p#/proc/}}; done"
    server = sandbox.run(
        says(command(f"for p in $({find}); do cat /proc/$p/environ; ls /proc/$p/fd; kill -9 $p; done")),
        says(command(f"ls {sandbox.link}; cat {sandbox.link}/host.sock")),
        says("Done."),
    )
    assert server.outputs[0].count("Permission denied") >= 2
    assert "not permitted" in server.outputs[0]
    assert server.outputs[1].count("Permission denied") == 2
