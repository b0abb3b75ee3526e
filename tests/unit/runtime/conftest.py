"""A real sandbox for each test: the bundle as it is shipped, in an interpreter of its own, beside a link server."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.bundle import entry_command, remove_bundle, write_bundle
from agent_runtime.protocol import VERSION
from tests.unit.runtime.linkserver import DEADLINE_S, LinkServer, Reply

IS_ROOT = os.geteuid() == 0


def _take_users() -> int:
    """Two users whom no other run of these tests has, on this machine, while this process lives; the first of them."""
    for first in range(61_800, 62_000, 2):
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0farhand-test-users-{first}")  # an abstract name: it goes with this process
        except OSError:
            held.close()
        else:
            atexit.register(held.close)
            return first
    raise RuntimeError("a hundred runs of these tests have taken all users that are set apart for them")


LOOP_UID = _take_users()
HELPER_UID = LOOP_UID + 1
"""Users that nobody else on the machine runs as: `kill -9 -1` is one of the tests."""

GIT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.org",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.org",
}


def git(cwd: Path, *args: str, stdin: bytes = b"", environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        ["git", *args], cwd=cwd, input=stdin, env={**GIT, **(environment or {})}, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


@pytest.fixture(scope="session")
def bundle() -> Iterator[Path]:
    """Below /tmp, for two other users must be able to read it."""
    directory = Path(tempfile.mkdtemp(prefix="fh-"))
    directory.chmod(0o755)
    path = write_bundle(directory)
    yield path
    remove_bundle(path)
    directory.rmdir()


class Sandbox:
    """The directories of one sandbox, its repository, its job, and the process once it is started."""

    def __init__(self, root: Path, bundle: Path) -> None:
        self.bundle = bundle
        self.origin = root / "origin"
        self.link, self.objects, self.work = root / "link", root / "in" / "objects", root / "work"
        for directory in (self.origin, self.link, self.work):
            directory.mkdir(parents=True)
        self.repo = self.work / "repo"
        git(self.origin, "init", "-q", "-b", "main")
        (self.origin / "hello.py").write_text("print('hello')\n")
        self.job: dict[str, Any] = {}
        self.process: subprocess.Popen[str] | None = None
        self.python = sys.executable
        self.as_users = IS_ROOT
        self.path = os.environ["PATH"]
        self.server: LinkServer | None = None

    def commit(self) -> str:
        """Commit what is in `origin`; returns the sha."""
        git(self.origin, "add", "-A")
        git(self.origin, "commit", "-q", "--allow-empty", "-m", "a commit")
        return git(self.origin, "rev-parse", "HEAD")

    def serve(self, *script: Reply, prompt: str = "Fix it.", **job: Any) -> LinkServer:
        """Put the job together (keys of `limits` and `workspace` by name) and start the link server."""
        base = job.pop("base", None) or self.commit()
        shutil.rmtree(self.objects.parent, ignore_errors=True)
        git(self.origin, "repack", "-qad")
        shutil.copytree(self.origin / ".git" / "objects", self.objects)
        limits = {
            "max_steps": 50,
            "wall_clock_s": DEADLINE_S,
            "command_timeout_s": 20.0,
            "max_command_timeout_s": 30.0,
            "output_bytes": 20_000,
            "pack_bytes": 8 << 20,
            "file_bytes": 1 << 20,
        }
        workspace = {"base": base, "head": base, "tree": None, "branch": "farhand/1"}
        agent = {"name": "coder", "instructions": "You fix code.", "tools": ALL_TOOLS, "max_tokens": 4096}
        self.job = {
            "protocol": VERSION,
            "task_id": "1",
            "attempt": 1,
            "steps": [],
            "calls": [],
            "inbox": [{"id": "m1", "text": prompt}] if prompt else [],
        }
        for name, value in job.items():
            part = next((part for part in (limits, workspace, agent) if name in part), self.job)
            part[name] = value
        self.job.update(workspace=workspace, agent=agent, limits=limits)
        self.server = LinkServer(self.link / "host.sock", self.job, list(script)).start()
        return self.server

    def start(self, silence_s: float = 20.0, before_exec: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        uids = (LOOP_UID, HELPER_UID) if self.as_users else None
        if uids:
            os.chown(self.link, LOOP_UID, LOOP_UID)
            self.link.chmod(0o700)
            os.chown(self.work, HELPER_UID, HELPER_UID)
        command = entry_command(
            self.python, str(self.bundle), str(self.link), str(self.objects), str(self.work), uids=uids
        )
        self.process = subprocess.Popen(
            [*command, "--link-silence", str(silence_s)],
            env={"PATH": self.path, "SECRET_OF_THE_WORKER": "not to be seen"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=before_exec,  # noqa: PLW1509  (this process forks in tests without threads that hold locks)
        )
        return self.process

    def wait(self) -> tuple[int, str]:
        """Exit code and standard error."""
        assert self.process
        _out, error = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, error

    def run(self, *script: Reply, **job: Any) -> LinkServer:
        """From start to an accepted finish."""
        server = self.serve(*script, **job)
        self.start()
        code, error = self.wait()
        assert code == 0, error
        assert not server.script, "the runtime did not ask for all scripted replies"
        return server

    def make_fifo(self, name: str) -> Path:
        """In the directory above the repository; a test and a command can wait for each other on it."""
        path = self.work / name
        os.mkfifo(path)
        path.chmod(0o666)
        return path

    def make_path_of(self, *programs: str) -> str:
        """A PATH with nothing on it but these: as an image that lacks the rest."""
        directory = self.work.parent / "bin"
        directory.mkdir()
        for program in programs:
            (directory / program).symlink_to(str(shutil.which(program)))
        return str(directory)

    def receive(self, pack: bytes) -> None:
        """Take a pack as the worker does: strictly checked, completed with objects of the base."""
        git(self.origin, "index-pack", "--strict", "--fix-thin", "--stdin", stdin=pack)

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.wait()
        if self.server:
            self.server.stop()


ALL_TOOLS = ["read_file", "write_file", "edit_file", "list_files", "search_files", "run_command"]


@pytest.fixture
def sandbox(bundle: Path) -> Iterator[Sandbox]:
    root = Path(tempfile.mkdtemp(prefix="fh-"))
    root.chmod(0o755)
    sandbox = Sandbox(root, bundle)
    yield sandbox
    sandbox.close()
    for directory in root.rglob("*"):
        if directory.is_dir() and not directory.is_symlink():
            directory.chmod(0o755)
    shutil.rmtree(root)


@pytest.fixture
def call(sandbox: Sandbox) -> Callable[..., dict[str, Any]]:
    """Run one tool call in a fresh sandbox and return its result."""

    def run_one(tool: str, limits: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
        from tests.unit.runtime.linkserver import says, tool_use

        return sandbox.run(says(tool_use(tool, **args)), says("Done."), **(limits or {})).results[0]

    return run_one
