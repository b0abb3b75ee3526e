"""Processes with warm pools, and the drivers to look at what they have made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.contract.inside import running
from tests.services import make_settings
from workers.sandbox import directory
from workers.sandbox.base import Driver, Kind
from workers.sandbox.docker import DockerDriver
from workers.sandbox.local import LocalDriver

ROOT = Path(__file__).parents[3]


class PoolProcess:
    """One worker's pool, in a process of its own. `ask` waits for the answer."""

    def __init__(self, kind: Kind, run_dir: Path, log: Path, *, size: int, image: str = "", **more: float) -> None:
        given = {"kind": kind, "run_dir": str(run_dir), "size": size, "image": image, **more}
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.integration.workers.pool_process", json.dumps(given)],
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, do: str, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.log
        return json.loads(answer)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """SIGKILL, as a worker that is out of memory."""
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "local"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def driver(kind: Kind, run_dir: Path) -> Iterator[Driver]:
    """Leaves nothing behind, whatever a test did."""
    settings = make_settings(database_url="", redis_url="", run_dir=run_dir)
    driver: Driver = DockerDriver(settings) if kind == "docker" else LocalDriver(settings)
    with closing(driver):
        yield driver
        for sandbox_id in driver.leftovers():
            driver.remove(sandbox_id)


@pytest.fixture
def pool(driver: Driver, run_dir: Path, tmp_path: Path) -> Iterator[Callable[..., PoolProcess]]:
    """Starts processes with pools, of two seats unless `size` says otherwise."""
    started: list[PoolProcess] = []

    def start(**given: Any) -> PoolProcess:
        log = tmp_path / f"pool{len(started)}.log"
        started.append(PoolProcess(driver.kind, run_dir, log, **({"size": 2} | given)))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def kill_sandbox(driver: Driver, run_dir: Path, sandbox_id: str) -> None:
    """As the kernel does when memory is short: nobody else is told."""
    if isinstance(driver, DockerDriver):
        subprocess.run(["docker", "kill", driver._name(sandbox_id)], check=True, capture_output=True)
        return
    for pid in running(str(directory.path_of(run_dir, sandbox_id) / "work")):
        subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
