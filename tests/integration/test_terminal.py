"""What a person at a terminal sees of `run`: a pseudo terminal, a deployment, and a model that can be held.

Elsewhere than on a terminal there are plain lines without any of it: `test_up`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.deployment import Deployment
from tests.run_dir import new_run_dir
from tests.services import Postgres, make_settings
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0
ROWS, COLUMNS = 40, 120
EDIT = {"path": "README.md", "old": "a sample\n", "new": "a better sample\n"}
TRAJECTORY: list[dict[str, Any]] = [
    {
        "content": [{"type": "tool_use", "name": "edit_file", "input": EDIT}],
        "usage": {"input_tokens": 10_000, "output_tokens": 100},  # $0.0210
    },
    {
        "content": [{"type": "text", "text": "I have made the sample better, and this is all that there was to do."}],
        "usage": {"input_tokens": 11_000, "output_tokens": 100},
        "gate": "writing",
        "gate_after_events": 4,
    },
]
STATUS = r"[⠀-⣿][^\n]*? · step {step} · (\d+) s · \${spent}"
"""The line of the spinner: what is done, step, seconds, US dollars."""


class Terminal:
    """A command on a terminal of its own, and all that it has written there so far. A context manager."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._command = [sys.executable, "-P", "-m", "infra.cli", *arguments]
        plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
        self._environment = {**plain, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environment}
        self._written = b""

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        return self._written.decode(errors="replace").replace("\r\n", "\n")

    def until(self, pattern: str) -> re.Match[str]:
        """The first match in what was written; with all colours."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in time: {self.text!r}"
            assert self._read(), f"it ended without {pattern!r}: {self.text!r}"
        return found

    def end(self) -> int:
        """The exit code."""
        while self._read():
            pass
        return self.process.wait(DEADLINE_S)

    def _read(self) -> bool:
        readable, _, _ = select.select([self._ours], [], [], DEADLINE_S)
        assert readable, f"nothing more came in time: {self.text!r}"
        try:
            piece = os.read(self._ours, 65_536)
        except OSError:  # EIO: the command has ended
            return False
        self._written += piece
        return bool(piece)


@pytest.fixture
def model() -> Iterator[ModelStandIn]:
    with ModelStandIn({"better": TRAJECTORY}) as standin:
        yield standin


@pytest.fixture
def git_host(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "README.md").write_text("a sample\n")
    with GitServer(tmp_path / "git") as server:
        server.create("sample", from_dir=tmp_path / "tree")
        yield server


@pytest.fixture
def deployment(
    postgres: Postgres, redis_url: str, tmp_path: Path, model: ModelStandIn, git_host: GitServer
) -> Iterator[Deployment]:
    environment = {
        "FARHAND_SANDBOX": "local",
        "FARHAND_ANTHROPIC_BASE_URL": model.base_url,
        "FARHAND_ANTHROPIC_API_KEY": "a-model-key",
        "FARHAND_ALLOWED_REPO_HOSTS": git_host.url("x").split("/")[2],
    }
    with new_run_dir() as run_dir:
        settings = make_settings(database_url=postgres.create_database(), redis_url=redis_url, run_dir=run_dir)
        with Deployment(settings, tmp_path / "data", **environment) as running:
            yield running


def test_run_is_live_on_a_terminal_and_ends_with_a_coloured_diff(
    deployment: Deployment, model: ModelStandIn, git_host: GitServer
) -> None:
    there = {"FARHAND_SERVER": deployment.url, "FARHAND_TOKEN": deployment.token}
    ask = ("run", "--repo", git_host.url("sample"), "--model", "claude-sonnet", "Make it better")
    with Terminal(*ask, **there) as terminal:
        terminal.until(STATUS.format(step=0, spent=r"0\.0000"))
        first = terminal.until(STATUS.format(step=1, spent=r"0\.0210"))
        terminal.until("I have made the")  # what is being written
        later = terminal.until(STATUS.format(step=1, spent=r"0\.0210").replace(r"(\d+)", rf"(?!{first[1]} )(\d+)"))
        assert int(later[1]) > int(first[1]), "time goes on while the model writes"
        assert "all that there was to do" not in terminal.text
        model.open_gate("writing")
        assert terminal.end() == 0
    told, completed, after = terminal.text.partition("\x1b[1;32mcompleted\x1b[0m")
    assert completed
    assert "all that there was to do" in told
    assert "step 2: 11,000 tokens in" in told
    assert "\x1b[31m-a sample\x1b[0m\n" in after
    assert "\x1b[32m+a better sample\x1b[0m\n" in after
    assert "\x1b[?25h" in after, "the cursor is back"

    with deployment.client() as client:
        (task,) = client.tasks()
    with Terminal("diff", task["id"], **there) as terminal:
        assert terminal.end() == 0
    assert "\x1b[32m+a better sample\x1b[0m\n" in terminal.text
