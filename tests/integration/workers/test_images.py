"""Images that projects name: what an engine has, what it pulls, and what they lack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import images_asked
from infra.errors import TaskFailedError
from infra.services import Services
from tests.images import Images, docker
from tests.services import make_settings
from tests.standin.registry import Registry
from tests.world import World
from workers.image_desk import ImageDesk
from workers.sandbox.docker import DockerDriver
from workers.sandbox.local import LocalDriver

pytestmark = pytest.mark.docker

NO_SHELL = """python3 -c '
import os
for name in ("/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/dash"):
    os.path.lexists(name) and os.remove(name)
'"""


def in_place_of_python(*lines: str) -> str:
    """A command that makes another `python3` of the image, a shell script."""
    script = "\n".join(["#!/bin/sh", *lines])
    return f"cat > /tmp/p <<'END'\n{script}\nEND\nchmod 755 /tmp/p; rm -f /usr/bin/python3; mv /tmp/p /usr/bin/python3"


def says(found: object) -> str:
    return in_place_of_python(f"echo '{json.dumps(found)}'")


@pytest.fixture
def image() -> Iterator[Callable[[str], str]]:
    """Makes an image of the agent's by running a command in it."""
    with Images() as images:
        yield images.make


@pytest.fixture
def engine(run_dir: Path) -> Iterator[DockerDriver]:
    driver = DockerDriver(make_settings(database_url="", redis_url="", run_dir=run_dir))
    yield driver
    assert driver.leftovers() == [], "a look leaves nothing behind"
    assert list((run_dir / "s").glob("*.hold")) == []
    driver.close()


def provide(driver: DockerDriver, reference: str) -> str:
    return driver.provide(reference, lambda _percent: None)


def refusal(driver: DockerDriver, reference: str) -> TaskFailedError:
    with pytest.raises(TaskFailedError) as raised:
        provide(driver, reference)
    assert raised.value.hint
    assert reference in raised.value.message
    return raised.value


def test_an_image_with_all_that_a_sandbox_needs(engine: DockerDriver, image: Callable[[str], str]) -> None:
    """Its own entry point, user and variables do not matter."""
    name = image("echo 'a tool of the project' > /opt/tool")
    assert provide(engine, name) == provide(engine, name) == docker("inspect", "-f", "{{.Id}}", name).strip()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("rm -f /usr/bin/git", "image_without_git"),
        ("rm -f /usr/bin/python3*", "image_without_python"),
        (says({"python": [3, 7], "git": True, "shell": True}), "image_python_too_old"),
        (says("nonsense"), "image_unusable"),
        (in_place_of_python("exit 3"), "image_unusable"),
        ("printf garbage > /usr/bin/python3.11; chmod 755 /usr/bin/python3.11", "image_unusable"),
        (NO_SHELL, "image_without_shell"),
    ],
)
def test_what_an_image_lacks_is_said(
    engine: DockerDriver, image: Callable[[str], str], command: str, code: str
) -> None:
    assert refusal(engine, image(command)).code == code


def test_an_image_is_asked_without_network_rights_or_mounts(engine: DockerDriver, image: Callable[[str], str]) -> None:
    """It answers with what it finds: this one writes that in place of an answer, and the refusal quotes it."""
    asks = ("id -u", "grep CapEff /proc/self/status", "ls /sys/class/net", "ls -d /farhand/*", "touch /x", "exit 3")
    said = refusal(engine, image(in_place_of_python(*asks))).message
    assert "61002" in said
    assert "CapEff:\t0000000000000000" in said
    assert "eth0" not in said
    assert "/farhand/link" not in said
    assert "Read-only file system" in said


def test_an_image_is_pulled_and_looked_at(engine: DockerDriver) -> None:
    with Registry() as registry:
        name = registry.put("team/bare", {"hello": b"x"})
        heard: list[int] = []
        with pytest.raises(TaskFailedError) as raised:
            engine.provide(f"{name}:latest", heard.append)
        try:
            assert raised.value.code == "image_without_python"
            assert registry.pulled
            assert docker("inspect", "-f", "{{.Id}}", name)
        finally:
            docker("rmi", "-f", name)


def test_an_image_that_cannot_be_had(engine: DockerDriver) -> None:
    with Registry() as registry:
        assert refusal(engine, f"{registry.address}/team/absent:latest").code == "image_missing"
        gone = registry.address
    assert refusal(engine, f"{gone}/team/absent:latest").code == "image_missing"


def test_local_sandboxes_have_no_images(run_dir: Path) -> None:
    driver = LocalDriver(make_settings(database_url="", redis_url="", run_dir=run_dir))
    with pytest.raises(TaskFailedError) as raised:
        driver.provide("python:3", lambda _percent: None)
    assert raised.value.code == "image_needs_docker"


def test_a_desk_writes_what_it_found(services: Services, engine: DockerDriver, image: Callable[[str], str]) -> None:
    world, desk = World.make(services), ImageDesk(services, engine)
    names = [image("true"), image("rm -f /usr/bin/git")]
    for name in names:
        with services.database.begin() as connection:
            images_asked.ask(connection, name, user_id=world.user_id)
    assert [desk.serve_next() for _ in range(3)] == [True, True, False]
    with services.database.begin() as connection:
        found: dict[str, Any] = images_asked.found(connection, set(names))
    assert found[names[0]] == {"state": "ready", "error": None}
    assert (found[names[1]]["state"], found[names[1]]["error"]["code"]) == ("refused", "image_without_git")


def test_a_look_that_nobody_comes_back_from_is_given_up(services: Services, engine: DockerDriver) -> None:
    world, desk = World.make(services), ImageDesk(services, engine)
    with services.database.begin() as connection:
        images_asked.ask(connection, "python:3", user_id=world.user_id)
    for _ in range(images_asked.MAX_TRIES):  # workers that died, their holds run out
        with services.database.begin() as connection:
            look = images_asked.take(connection)
            assert look is not None
            images_asked.put_off(connection, look, -1)
    assert desk.serve_next()
    with services.database.begin() as connection:
        assert images_asked.found(connection, {"python:3"})["python:3"]["error"]["code"] == "image_check_failed"
