"""The project's setup, in a real sandbox: where the script runs, what of it is kept, and that it is put back."""

from __future__ import annotations

import hashlib
import io
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime.conftest import IS_ROOT, Sandbox
from tests.unit.runtime.linkserver import LinkServer, says, tool_use

SCRIPT = """
mkdir -p .venv/bin node_modules ~/.cache/deep
echo 'echo it works' > .venv/bin/tool; chmod 755 .venv/bin/tool; ln -s tool .venv/bin/link; chmod 555 .venv/bin
echo "$MODE" > node_modules/mode; echo at home > ~/.cache/deep/file
env | sort > ~/.seen; echo left > left.txt; echo changed >> hello.py
sleep 1000 > /dev/null 2>&1 & echo $! > node_modules/pid
"""
LOOK = "cat node_modules/mode ~/.cache/deep/file hello.py; .venv/bin/link; ls; readlink .venv/bin/link"


def setup(script: str = SCRIPT, *, kept: bool = False, timeout_s: float = 30.0) -> dict[str, Any]:
    return {"kept": kept, "script": script, "environment": {"MODE": "ci"}, "timeout_s": timeout_s}


def open_python() -> str:
    """An interpreter whose library the users inside can read, as those of images are: a setup's code is loaded late."""
    own = Path(sys.executable).resolve()
    closed = IS_ROOT and any(not part.stat().st_mode & stat.S_IXOTH for part in (own, *own.parents))
    return "/usr/bin/python3" if closed else sys.executable


@pytest.fixture(autouse=True)
def ignoring(sandbox: Sandbox) -> None:
    sandbox.python = open_python()
    (sandbox.origin / ".gitignore").write_text(".venv/\nnode_modules/\n")


def look(command: str) -> Any:
    return says(tool_use("run_command", command=command))


def run(sandbox: Sandbox, command: str = LOOK, **job: Any) -> LinkServer:
    return sandbox.run(look(command), says("Done."), **job)


def test_what_the_script_leaves_is_kept_and_put_into_this_workspace_and_the_next(sandbox: Sandbox) -> None:
    server = run(sandbox, setup=setup(), environment={"MODE": "ci", "PASSWORD": "a-secret"})
    done = server.setups[0]
    assert (done["bytes"], done["sha256"]) == (len(server.archive), hashlib.sha256(server.archive).hexdigest())
    assert done["not_kept"] == ["left.txt"]
    for path in server.requests:
        assert path[1] in {"/job", "/setup/part", "/setup/done", "/v1/messages", "/calls", "/results", "/finish"}
    asked = [path for _method, path in server.requests]
    assert asked.index("/setup/done") < asked.index("/v1/messages"), "taken before an agent works"
    with tarfile.open(fileobj=io.BytesIO(server.archive)) as archive:
        names = archive.getnames()
    assert {"repo/.venv/bin/tool", "repo/node_modules/mode", "home/.cache/deep/file"} <= set(names)
    assert not {name for name in names if "hello.py" in name or "left" in name or ".git/" in name}
    output = server.outputs[0]
    assert output.startswith("ci\nat home\nprint('hello')\n")
    assert "left.txt" not in output
    assert "it works\n" in output
    assert "tool\n" in output


def test_a_result_that_is_kept_is_put_back_and_the_script_is_not_run(sandbox: Sandbox) -> None:
    built = run(sandbox, setup=setup())
    before = bytes(built.archive)
    built.stop()
    (sandbox.link / "host.sock").unlink()
    server = sandbox.serve(
        look(LOOK), says("Done."), setup=setup("exit 1", kept=True), base=sandbox.job["workspace"]["base"]
    )
    (sandbox.objects.parent / "setup.tar").write_bytes(before)
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.setups == []
    assert server.outputs[0].startswith("ci\nat home\nprint('hello')\n")


def test_the_script_gets_the_variables_and_no_secret_nor_anything_of_the_worker(sandbox: Sandbox) -> None:
    given = {"MODE": "ci", "PASSWORD": "a-secret"}
    server = run(sandbox, 'cat ~/.seen; echo "commands: $PASSWORD $MODE"', setup=setup(), environment=given)
    seen, _, commands = server.outputs[0].partition("commands: ")
    assert "MODE=ci" in seen
    assert "a-secret" not in seen
    assert "not to be seen" not in seen
    assert commands.startswith("a-secret ci")
    assert b"a-secret" not in server.archive


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo it is broken; false; echo never", "exit code 1"),
        ("echo it is broken; kill -9 $$", "killed by signal 9"),
        ("echo it is broken; sleep 1000", "timeout"),
        ("echo it is broken; kill -9 $PPID; sleep 1000", "could not be run to its end"),
    ],
)
def test_a_script_that_fails_ends_the_run_with_its_output(sandbox: Sandbox, script: str, message: str) -> None:
    server = sandbox.serve(setup=setup(script, timeout_s=2.0))
    sandbox.start()
    assert sandbox.wait()[0] == 0
    error = server.finish["error"]
    assert error["code"] == "setup_failed"
    assert message in error["message"]
    assert "could not" in message or "it is broken" in error["message"]
    assert "never" not in error["message"]
    assert not server.archive
    assert server.bodies == []


def test_what_it_started_does_not_outlive_it(sandbox: Sandbox) -> None:
    server = run(sandbox, "kill -0 $(cat node_modules/pid) 2> /dev/null && echo alive || echo gone", setup=setup())
    assert server.outputs[0].startswith("gone\n")


def test_a_result_larger_than_one_piece(sandbox: Sandbox) -> None:
    fill = "for n in 1 2 3; do head -c 1500000 /dev/urandom > .venv/$n; done"
    script = f"mkdir .venv; {fill}; cat .venv/* | sha256sum > .venv/sum"
    check = "cat .venv/1 .venv/2 .venv/3 | sha256sum; cat .venv/sum"
    server = run(sandbox, check, setup=setup(script))
    found, expected, *_ = server.outputs[0].splitlines()
    assert found == expected
    assert server.requests.count(("POST", "/setup/part")) > 2


def test_a_result_that_cannot_be_put_back_ends_the_run(sandbox: Sandbox) -> None:
    server = sandbox.serve(setup=setup(kept=True))
    (sandbox.objects.parent / "setup.tar").write_bytes(b"not an archive" * 100)
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert server.finish["error"]["code"] == "setup_failed"
