"""The runtime as it is shipped, in sandboxes of both kinds: what their two halves promise together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_runtime.bundle import remove_bundle, write_bundle
from agent_runtime.protocol import SOCKET
from tests.contract.conftest import DISK, MEMORY
from tests.contract.inside import DEADLINE_S, running, unique_nap, until_running
from tests.contract.job import link_packs, make_job
from tests.unit.runtime.linkserver import LinkServer, Reply, says, tool_use
from workers.sandbox import directory
from workers.sandbox.base import KILL_S, Driver, Exit, Kind, SandboxSpec

LIMITS = {
    "max_steps": 20,
    "wall_clock_s": DEADLINE_S,
    "command_timeout_s": 20.0,
    "max_command_timeout_s": 30.0,
    "output_bytes": 20_000,
}


class Task:
    """A sandbox at work on a tiny repository."""

    def __init__(self, driver: Driver, run_dir: Path, bundle: Path, commands: tuple[str, ...]) -> None:
        path = directory.make(run_dir, directory.new_sandbox_id())
        base = link_packs(run_dir / "repo", path / "in/objects/pack")
        script: list[Reply] = [says(tool_use("run_command", command=command)) for command in commands]
        self.link = LinkServer(
            path / "link" / SOCKET, make_job(base, ["run_command"], LIMITS), [*script, says("Done.")]
        ).start()
        self.sandbox = driver.start(SandboxSpec(path.name, path, bundle))

    def outputs(self) -> list[str]:
        """Of all commands, once the runtime has finished well."""
        assert self.sandbox.wait(DEADLINE_S) == Exit(0, False, "")
        assert self.link.finish["error"] is None
        return self.link.outputs


@pytest.fixture
def task(driver: Driver, run_dir: Path) -> Iterator[Callable[..., Task]]:
    tasks: list[Task] = []
    bundle = write_bundle(run_dir / "runtime")

    def start(*commands: str) -> Task:
        tasks.append(Task(driver, run_dir, bundle, commands))
        return tasks[-1]

    yield start
    for task in tasks:
        task.link.stop()
        task.sandbox.remove()
    remove_bundle(bundle)


def test_a_task_is_done_from_checkout_to_finish(task: Callable[..., Task]) -> None:
    seen, changed = task("cat hello.py", "echo more >> hello.py; git status --short").outputs()
    assert "print('hello')" in seen
    assert "M hello.py" in changed


def test_commands_know_nothing_of_the_worker(
    task: Callable[..., Task], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-of-the-worker")
    (output,) = task("env; id -u").outputs()
    assert "secret-of-the-worker" not in output
    assert "ANTHROPIC" not in output
    if kind == "docker":
        assert f"\n{directory.HELPER_UID}\n" in output
    elif os.geteuid() == 0:
        assert f"\n{directory.NOBODY_UID}\n" in output


def test_a_command_that_takes_all_memory_or_disk_is_told_so_and_the_task_goes_on(task: Callable[..., Task]) -> None:
    eat = f"python3 -c 'bytearray({2 * MEMORY})'"
    fill = f"head -c {2 * DISK} /dev/zero > big; code=$?; rm -f big; exit $code"
    eaten, filled, after = task(eat, fill, "echo alive").outputs()
    assert "[exit code 0]" not in eaten
    assert "[exit code 0]" not in filled
    assert "alive" in after


def test_a_fork_bomb_is_over_once_the_sandbox_has_run_out_of_processes(task: Callable[..., Task]) -> None:
    bomb = "sh -c 'bomb() { bomb | bomb & }; bomb; wait; sleep 1'"
    outputs = task(bomb, *["echo alive"] * 3).outputs()
    ended = next((index for index, output in enumerate(outputs) if "every process in it was killed" in output), 0)
    assert all("alive" in output for output in outputs[ended + 1 :]), outputs


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["docker"])
def test_a_command_that_kills_all_it_can_costs_only_the_helper(task: Callable[..., Task]) -> None:
    _, after = task("kill -9 -1", "echo alive").outputs()
    assert "alive" in after


def test_what_a_command_has_detached_ends_with_the_sandbox(task: Callable[..., Task]) -> None:
    nap = unique_nap()
    naps = f"until grep -qsz '^{nap}$' /proc/[0-9]*/cmdline; do sleep 0.01; done"
    done = task(f"setsid sleep {nap} >/dev/null 2>&1 & {naps}")
    done.outputs()
    assert running(f"sleep\0{nap}") == []


def test_killing_ends_a_running_command_in_time(task: Callable[..., Task]) -> None:
    nap = unique_nap()
    started = task(f"setsid sleep {nap} & sleep {nap}")
    until_running(f"sleep\0{nap}", 2)
    killing = time.monotonic()
    started.sandbox.kill()
    assert time.monotonic() - killing < KILL_S
    assert running(f"sleep\0{nap}") == []
