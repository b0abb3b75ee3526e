"""The warm pool, with real sandboxes of both kinds in a process like a worker's."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.workers.conftest import PoolProcess, kill_sandbox
from tests.services import make_settings
from workers.sandbox.base import Driver
from workers.sandbox.docker import DockerDriver
from workers.sandbox.hold import held_ids

Start = Callable[..., PoolProcess]


def test_what_is_taken_is_replaced_and_never_handed_out_again(pool: Start, driver: Driver) -> None:
    process = pool()
    process.ask("until", ready=2)
    waiting = set(driver.leftovers())
    first = process.ask("take")
    process.ask("until", started=3, ready=2)
    second = process.ask("take")
    assert {first, second} <= waiting
    process.ask("until", started=4, ready=2)
    assert process.ask("take") not in waiting
    counts = process.ask("counts")
    assert (counts["hits"], counts["misses"]) == (3, 0)


def test_who_finds_none_waiting_is_told_so_at_once(pool: Start) -> None:
    process = pool(size=1)
    process.ask("until", ready=1)
    assert process.ask("take") is not None
    assert process.ask("take") is None
    assert process.ask("counts")["misses"] == 1


def test_a_pool_of_no_size_starts_nothing(pool: Start, driver: Driver) -> None:
    process = pool(size=0)
    assert process.ask("take") is None
    assert process.ask("counts")["misses"] == 0
    process.ask("close")
    assert driver.leftovers() == []


def test_one_that_died_while_it_waited_is_replaced_and_not_handed_out(
    pool: Start, driver: Driver, run_dir: Path
) -> None:
    process = pool(size=1)
    process.ask("until", ready=1)
    (dead,) = driver.leftovers()
    kill_sandbox(driver, run_dir, dead)
    process.ask("until", died=1, started=2, ready=1)
    assert process.ask("take") not in {None, dead}
    assert "warm_died" in process.log


def test_what_has_waited_too_long_is_replaced(pool: Start, driver: Driver) -> None:
    process = pool(size=1, max_age=0.2, look_every=0.1)
    process.ask("until", ready=1)
    (old,) = driver.leftovers()
    process.ask("until", age=1, started=2)
    assert process.ask("counts")["died"] == 0
    process.ask("close")
    assert old not in driver.leftovers()


@pytest.fixture
def image() -> Iterator[str]:
    """A name of an image that a test may move to another one."""
    name = f"farhand-test-{uuid.uuid4().hex[:8]}:1"
    yield name
    subprocess.run(["docker", "rmi", "--force", name], check=False, capture_output=True)


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["docker"])
def test_an_image_that_is_built_anew_replaces_what_was_made_from_the_old_one(
    pool: Start, driver: Driver, image: str
) -> None:
    agent_image = make_settings(database_url="", redis_url="", run_dir=Path("/")).agent_image
    docker("tag", agent_image, image)
    process = pool(size=1, image=image, look_every=0.1)
    process.ask("until", ready=1)
    container = docker("create", image, "true")
    docker("commit", "--change", "LABEL farhand.test=1", container, image)
    docker("rm", container)
    process.ask("until", image=1, started=2, ready=1)
    taken = process.ask("take")
    assert isinstance(driver, DockerDriver)
    made_from = docker("inspect", "--format", "{{.Image}}", driver._name(taken))
    assert made_from == docker("image", "inspect", "--format", "{{.Id}}", image)
    process.ask("close")
    process.ask("discard")
    assert process.ask("counts")["image"] == 1


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["docker"])
def test_what_can_not_start_is_said_once_and_tried_again(pool: Start, image: str) -> None:
    process = pool(size=1, image=image)
    process.ask("until", failed=2)
    assert process.ask("take") is None
    docker("tag", make_settings(database_url="", redis_url="", run_dir=Path("/")).agent_image, image)
    process.ask("until", ready=1)
    assert process.log.count("warm_pool_paused") == 1
    assert "farhand image" in process.log
    assert process.log.count("warm_pool_recovered") == 1
    process.ask("close")


@pytest.mark.parametrize("filled", [True, False], ids=["full", "while it fills"])
def test_closing_leaves_nothing_that_nobody_has_taken(
    pool: Start, driver: Driver, run_dir: Path, *, filled: bool
) -> None:
    process = pool(size=3)
    process.ask("until", ready=3 if filled else 1)
    taken = process.ask("take")
    process.ask("close")
    assert driver.leftovers() == [taken]
    assert held_ids(run_dir) == [taken]
    assert process.ask("take") is None
    process.ask("discard")
    assert driver.leftovers() == []
    assert held_ids(run_dir) == []


def docker(*command: str) -> str:
    return subprocess.run(["docker", *command], check=True, capture_output=True, text=True).stdout.strip()
