"""Sandboxes that are attacked, one of each kind for all tests, and what proves that an attack was a real one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_runtime.bundle import remove_bundle, write_bundle
from infra.settings import Settings
from tests.conftest import need
from tests.integration.relay.stage import TURN, Attempt, Sandbox
from tests.security.lair import Lair, Powers
from tests.security.local import GETS_THROUGH, NOT_TRIED
from tests.services import make_settings
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.sandbox.base import Driver, Kind
from workers.sandbox.docker import DockerDriver
from workers.sandbox.local import LocalDriver

MEMORY = 256 * 2**20
DISK = 32 * 2**20
PIDS = 64

DOCKER = pytest.param("docker", marks=pytest.mark.docker)


@pytest.fixture(scope="session")
def den() -> Iterator[Path]:
    """The run directory of all sandboxes here."""
    path = Path(tempfile.mkdtemp(prefix="fh-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def den_settings(den: Path) -> Settings:
    sizes = {"sandbox_memory_bytes": MEMORY, "sandbox_disk_bytes": DISK, "sandbox_pids": PIDS}
    return make_settings(database_url="", redis_url="", run_dir=den, **sizes)


@pytest.fixture(scope="session")
def make_lair(den: Path, den_settings: Settings) -> Iterator[Callable[[Kind], Lair]]:
    drivers: dict[Kind, Driver] = {}
    lairs: list[Lair] = []
    bundle = write_bundle(den / "runtime")

    def make(kind: Kind) -> Lair:
        if kind not in drivers:
            drivers[kind] = DockerDriver(den_settings) if kind == "docker" else LocalDriver(den_settings)
        lairs.append(Lair(drivers[kind], den, bundle))
        return lairs[-1]

    yield make
    for lair in lairs:
        lair.close()
    for driver in drivers.values():
        for sandbox_id in driver.leftovers():
            driver.remove(sandbox_id)
        driver.close()
    remove_bundle(bundle)


@pytest.fixture(scope="session", params=[DOCKER, "local"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    if kind == "local":
        need("root", None if os.geteuid() == 0 else "what `local` stops depends on it being started by root")
    return kind


@pytest.fixture
def only_docker(request: pytest.FixtureRequest, kind: Kind) -> None:
    """Of an attack that is listed as not tried in `local`: it would use up, or reach, what is not the tests' own."""
    if kind == "local":
        pytest.skip(f"`local` does not stop this, see SECURITY.md: {NOT_TRIED[request.node.originalname]}")


@pytest.fixture(scope="session")
def lair(kind: Kind, make_lair: Callable[[Kind], Lair]) -> Lair:
    """The sandbox that most attacks share. It must outlive them all."""
    return make_lair(kind)


@pytest.fixture(scope="session")
def neighbour(kind: Kind, make_lair: Callable[[Kind], Lair]) -> Lair:
    """Another tenant's sandbox on the same host."""
    return make_lair(kind)


@pytest.fixture(scope="session")
def powers(den_settings: Settings) -> Iterator[Powers]:
    made = Powers(den_settings.agent_image)
    yield made
    made.close()


@pytest.fixture
def must_stop(request: pytest.FixtureRequest, lair: Lair) -> Iterator[Callable[..., None]]:
    """Run an attack of which every try must end with one of the errors that are named.

    In `docker`, the same attack must get through with all powers: `unless` names errors that are no failure there (a
    kernel without that feature), `control=False` an attack that nobody may carry out. In `local` an attack of
    `GETS_THROUGH` must get through.
    """

    def attack(script: str, *errors: str, control: bool = True, unless: tuple[str, ...] = (), **given: object) -> None:
        outcomes = lair.attack(script, **given)
        if lair.kind == "local" and request.node.originalname in GETS_THROUGH:
            assert "done" in outcomes.values(), f"now stopped, and listed as not: {outcomes}"
            return
        assert set(outcomes.values()) <= set(errors), outcomes
        if lair.kind == "docker" and control:
            real = request.getfixturevalue("powers").attack(script, **given)
            assert set(real.values()) <= {"done", *unless}, f"no real attack: {real}"

    yield attack
    assert lair.is_alive()


@pytest.fixture
def model() -> Iterator[ModelStandIn]:
    with ModelStandIn({"all": [TURN, TURN, TURN]}, default="all") as server:
        yield server


@pytest.fixture
def attempt(world: World, model: ModelStandIn, run_dir: Path) -> Iterator[Attempt]:
    made = Attempt(world, model, run_dir)
    made.assign()
    yield made
    made.close()


@pytest.fixture
def loop(attempt: Attempt) -> Iterator[Sandbox]:
    """The loop that was taken over."""
    sandbox = Sandbox(attempt.path)
    yield sandbox
    sandbox.close()
