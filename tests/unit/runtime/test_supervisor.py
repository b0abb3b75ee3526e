"""The supervisor and the bundle: what is started, what is left, and that the runtime stands alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent_runtime.bundle import remove_bundle, write_bundle
from tests.unit.runtime.conftest import HELPER_UID, IS_ROOT, LOOP_UID, Sandbox
from tests.unit.runtime.linkserver import DEADLINE_S, LinkServer, says, tool_use
from tests.unit.runtime.processes import are_gone, is_alive, processes_of

OLDEST = "python3.8"


def start_command_that_waits(sandbox: Sandbox) -> tuple[LinkServer, str]:
    """Returns once the command runs, with the pid of what it left in a session of its own."""
    gate = sandbox.make_fifo("gate")
    line = f"setsid sh -c 'echo $$ > {gate}; sleep 1000' & sleep 1000"
    server = sandbox.serve(says(tool_use("run_command", command=line)))
    sandbox.start()
    return server, gate.read_text().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_ends_everything_at_once(sandbox: Sandbox, number: int) -> None:
    server, pid = start_command_that_waits(sandbox)
    assert sandbox.process
    sandbox.process.send_signal(number)
    assert sandbox.wait()[0] == 143
    assert not is_alive(pid)
    assert not server.finishes


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to tell the processes by their users")
def test_a_loop_that_dies_ends_everything(sandbox: Sandbox) -> None:
    _server, pid = start_command_that_waits(sandbox)
    (loop,) = processes_of(LOOP_UID)
    os.kill(int(loop), signal.SIGKILL)
    assert sandbox.wait()[0] == 128 + signal.SIGKILL
    assert not is_alive(pid)
    assert are_gone(HELPER_UID)


def test_everything_in_one_user_works_too(sandbox: Sandbox) -> None:
    sandbox.as_users = False
    line = "sleep 1000 >/dev/null & echo $!; kill -9 $PPID"
    server = sandbox.run(
        says(tool_use("run_command", command=line)), says(tool_use("run_command", command="echo alive")), says("Done.")
    )
    assert "The sandbox helper was killed" in server.outputs[0]
    assert server.outputs[1] == "alive\n[exit code 0]"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["run"],
        ["supervise"],
        ["supervise", "--link", "a", "--objects", "b", "--work"],
        ["supervise", "--link", "a", "--objects", "b", "--work", "c", "--more", "d"],
        ["supervise", "--link", "a", "--objects", "b", "--work", "c", "--helper-uid", "1"],
        ["supervise", "--link", "a", "--objects", "b", "--work", "c", "--helper-uid", "x", "--loop-uid", "1"],
    ],
)
def test_a_wrong_command_line_is_refused(bundle: Path, args: list[str]) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", bundle, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("python", [OLDEST, "/usr/bin/python3"])
def test_other_interpreters_of_images_run_it(sandbox: Sandbox, python: str) -> None:
    if not shutil.which(python) or subprocess.run([python, "-V"], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no {python} here")
    sandbox.python = python
    server = sandbox.run(
        says(*[tool_use(name, path="hello.py") for name in ("read_file", "list_files")]),
        says(tool_use("edit_file", path="hello.py", old="hello", new="hi")),
        says(tool_use("search_files", pattern="hi"), tool_use("run_command", command="sleep 1000", timeout_s=0.1)),
        says(tool_use("run_command", command="kill -9 $PPID")),
        says(tool_use("run_command", command="echo a fresh helper")),
        says("Done."),
    )
    assert [result["is_error"] for result in server.results] == [False, False, False, False, True, True, False]


def test_every_module_stands_on_the_standard_library_alone(bundle: Path) -> None:
    script = """
import json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import agent_runtime
for module in pkgutil.walk_packages(agent_runtime.__path__, "agent_runtime."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
print(json.dumps([name.split(".")[0] for name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(bundle)], capture_output=True, text=True, check=True
    )
    foreign = set(json.loads(done.stdout)) - set(sys.stdlib_module_names) - {"agent_runtime", "__main__"}
    assert not foreign


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "runtime"


def test_a_bundle_is_the_same_for_all_who_write_it_at_once(directory: Path) -> None:
    barrier = threading.Barrier(8)

    def write(_: int) -> Path:
        barrier.wait(DEADLINE_S)
        return write_bundle(directory)

    with ThreadPoolExecutor(8) as pool:
        bundles = set(pool.map(write, range(8)))
    assert len(bundles) == 1
    assert list(directory.iterdir()) == list(bundles), "drafts were left behind"
    (bundle,) = bundles
    assert (bundle / "__main__.py").exists()
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert not any(path.stat().st_mode & 0o222 for path in files)
    assert len(list(bundle.rglob("*.pyc"))) == len(list((bundle / "agent_runtime").rglob("*.py")))
    remove_bundle(bundle)
    assert not list(directory.iterdir())


def test_a_bundle_of_other_sources_is_another_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = write_bundle(directory)
    changed = tmp_path / "agent_runtime"
    shutil.copytree(before / "agent_runtime", changed, copy_function=shutil.copyfile)
    (changed / "link.py").write_text((changed / "link.py").read_text() + "\n")
    monkeypatch.setattr("agent_runtime.bundle.PACKAGE", changed)
    assert write_bundle(directory) != before
