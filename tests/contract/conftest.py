"""Sandboxes of both kinds for the contract suite: real containers, real processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.contract.inside import Inside
from tests.services import make_settings
from workers.sandbox import directory
from workers.sandbox.base import Driver, Kind
from workers.sandbox.docker import DockerDriver
from workers.sandbox.local import LocalDriver

MEMORY = 256 * 2**20
DISK = 32 * 2**20
PIDS = 64


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "local"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def small(run_dir: Path) -> Settings:
    """A deployment with sandboxes so small that their bounds are reached at once."""
    sizes = {"sandbox_memory_bytes": MEMORY, "sandbox_disk_bytes": DISK, "sandbox_pids": PIDS}
    return make_settings(database_url="", redis_url="", run_dir=run_dir, **sizes)


@pytest.fixture
def driver(kind: Kind, small: Settings) -> Iterator[Driver]:
    """Leaves nothing behind, whatever a test did."""
    driver: Driver = DockerDriver(small) if kind == "docker" else LocalDriver(small)
    with closing(driver):
        yield driver
        for sandbox_id in driver.leftovers():
            driver.remove(sandbox_id)


@pytest.fixture
def scripted(run_dir: Path) -> Path:
    """The scripted runtime where all users inside can read it."""
    bundle = run_dir / "scripted"
    bundle.mkdir()
    shutil.copyfile(Path(__file__).with_name("scripted_runtime.py"), bundle / "__main__.py")
    for path in (bundle, *bundle.iterdir()):
        path.chmod(0o755)
    return bundle


@pytest.fixture
def start(driver: Driver, run_dir: Path, scripted: Path) -> Iterator[Callable[[], Inside]]:
    """Starts a sandbox with the scripted runtime; it has connected when this returns."""
    with ExitStack() as started:

        def start_one() -> Inside:
            path = directory.make(run_dir, directory.new_sandbox_id())
            inside = Inside(driver, path, scripted)
            started.callback(inside.close)
            inside.start()
            return inside

        yield start_one
