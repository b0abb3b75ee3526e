"""A local deployment as a user starts it, `farhand up`, and the commands that talk to it."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from infra.cli.data_dir import DataDir, remove_tree
from infra.cli.process import Identity
from infra.cli.sample_repo import SampleRepo
from infra.client import Client
from infra.demo import RECORDINGS

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "infra.cli", *arguments]


def environment(recordings: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FARHAND_SANDBOX": "local",
        "FARHAND_ALLOWED_REPO_HOSTS": "file",
        "FARHAND_RECORDINGS": str(recordings),
        "FARHAND_MAX_STEP": "7",  # mistyped: it must be told
    }


class Up:
    """One data directory, and the `up` that runs on it now."""

    def __init__(self, directory: Path) -> None:
        self.data = DataDir(directory / "data")
        self.recordings = directory / "recordings"
        self.recordings.mkdir()
        shutil.copy(RECORDINGS / "demo.json", self.recordings)
        self.repo = SampleRepo(directory)
        self.repo.make()
        self._errors = (directory / "up.err").open("w+")

    def start(self) -> None:
        """Returns once it has said that it is ready."""
        self.process = subprocess.Popen(
            command("up", "--data", str(self.data.path)),
            env=environment(self.recordings),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        line = self.process.stdout.readline() if readable else ""
        ready = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+)\n", line)
        assert ready, f"it said {line!r} and {self.said()}"
        self.url = ready[1]

    def stop(self, sig: signal.Signals) -> int:
        self.process.send_signal(sig)
        code = self.process.wait(DEADLINE_S)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def log(self, service: str) -> str:
        return (self.data.logs / f"{service}.log").read_text()

    def children(self) -> dict[str, Identity]:
        found = ((file.name, Identity.read(file)) for file in self.data.pids.iterdir())
        return {name: identity for name, identity in found if identity is not None and identity.is_alive()}

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)
        self._errors.close()
        remove_tree(self.data.run_dir())

    def client(self) -> Client:
        token = self.data.token()
        assert token
        return Client(self.url, token)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env={**environment(self.recordings), "FARHAND_DATA": str(self.data.path)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )


def until(reached: Callable[[], Any]) -> None:
    """Ask again and again until it is so, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
