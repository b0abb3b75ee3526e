"""The repository that the demo works on, and its test run in a fresh clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.demo import SAMPLE
from infra.errors import FarhandError

TEST_COMMAND = "python3 -m unittest"
DEADLINE_S = 60

_IDENTITY = ("-c", "user.name=Farhand demo", "-c", "user.email=demo@farhand.invalid", "-c", "commit.gpgsign=false")


class DemoError(FarhandError):
    """Run `farhand doctor`; it checks what the demo needs."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True)
class TestRun:
    """`passed`, and the last line of what was printed."""

    passed: bool
    verdict: str


class SampleRepo:
    """A bare repository below `directory` with the sample on its branch `main`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "sample.git"
        self.url = self.path.as_uri()

    def make(self) -> None:
        source = self._directory / "source"
        source.mkdir()
        for file in SAMPLE.iterdir():
            shutil.copyfile(file, source / file.name.removesuffix(".sample"))
        _git("init", "--quiet", "--initial-branch=main", str(source))
        _git("-C", str(source), "add", "--all")
        _git(*_IDENTITY, "-C", str(source), "commit", "--quiet", "--message=Durations as people say them")
        _git("clone", "--quiet", "--bare", str(source), str(self.path))

    def test(self, branch: str) -> TestRun:
        """Run the sample's tests on a branch, in a fresh clone."""
        clone = self._directory / "clones" / branch.replace("/", "-")
        _git("clone", "--quiet", f"--branch={branch}", str(self.path), str(clone))
        done = subprocess.run(
            [sys.executable, "-B", "-m", "unittest"],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return TestRun(done.returncode == 0, lines[-1])


def _git(*arguments: str) -> None:
    """Without the configuration of the user or the host, so that it does the same everywhere."""
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        subprocess.run(
            ["git", *arguments], env=inherited | plain, check=True, capture_output=True, text=True, timeout=DEADLINE_S
        )
    except FileNotFoundError:
        raise DemoError("git is not installed", hint="Install git, then try again.") from None
    except subprocess.CalledProcessError as error:
        raise DemoError(f"git {arguments[0]} failed: {error.stderr.strip()}") from None
