"""Images that projects name: brought to this host's engine, and looked at before anything of a task runs in one.

    here already ──► looked at (once by each process for each image id) ──► its id, to start sandboxes from
    not here     ──► pulled, as far as time, bytes and the host's room allow ──► the same

What an image says of itself (entry point, user, labels) is not believed: a container with the limits of a sandbox,
without mounts and without a network, is asked what it has. It is a sandbox's container to the sweep: should this worker
die meanwhile, it is removed as one.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docker.errors import APIError

from infra.errors import TaskFailedError
from infra.settings import Settings
from workers.sandbox import directory
from workers.sandbox.base import SandboxSpec
from workers.sandbox.container import container_config, host_config
from workers.sandbox.engine import Engine, answer, engine_errors
from workers.sandbox.hold import hold_new

log = logging.getLogger(__name__)

OLDEST_PYTHON = (3, 8)
LOOK_S = 60.0
"""A look takes half a second; a host that is busy may take longer."""
PULL_S = 1200.0
PULL_SILENCE_S = 180.0
"""Of an engine that unpacks a large layer."""
MAX_PULL_BYTES = 8 * 2**30
"""As the registry sends it, compressed."""

_SHELLS = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh")
_LOOK = f"""
import json, os, subprocess, sys
def runs(*command):
    try:
        with open(os.devnull, "w") as null:
            return subprocess.call(command, stdout=null, stderr=null) == 0
    except OSError:
        return False
shell = any(os.access(path, os.X_OK) for path in {_SHELLS!r})
print(json.dumps({{"python": list(sys.version_info[:2]), "git": runs("git", "--version"), "shell": shell}}))
"""
"""For any Python 3, and a few before it."""


class ImageRefusedError(TaskFailedError):
    """Name another image in the project: one with Python 3.8 or later, git and a shell on its PATH."""

    code = "image_unusable"


class ProjectImages:
    """`deployment` marks containers as those of this deployment, `name` is a container's by its sandbox id."""

    def __init__(self, settings: Settings, engine: Engine, *, deployment: str, name: Callable[[str], str]) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir.absolute()
        self._engine = engine
        self._puller = Engine(PULL_SILENCE_S)
        self._deployment = deployment
        self._name = name
        self._good: set[str] = set()
        self._one_at_a_time = threading.Lock()
        """Looks only: an image that ten tasks wait for is looked at once."""

    def provide(self, reference: str, report: Callable[[int], None]) -> str:
        """The id of an image that can be a sandbox's. `report` hears percents of a pull; what it raises ends that.

        Raises EngineUnavailableError, ImageRefusedError.
        """
        image_id = self._find(reference)
        if image_id is None:
            self._pull(reference, report)
            image_id = self._find(reference)
        if image_id is None:
            raise _missing(reference, "it was pulled, and is not there")
        with self._one_at_a_time:
            if image_id not in self._good:
                self._look(reference, image_id)
                self._good.add(image_id)
        return image_id

    def close(self) -> None:
        self._puller.close()

    def _find(self, reference: str) -> str | None:
        try:
            with engine_errors():
                return str(self._engine.client().inspect_image(reference)["Id"])
        except APIError as error:
            if error.status_code == 404:
                return None
            raise ImageRefusedError(f"the Docker Engine cannot read {reference}: {answer(error)}") from error

    # ---- pulling -----------------------------------------------------------------------------------------------

    def _pull(self, reference: str, report: Callable[[int], None]) -> None:
        log.info("pulling %s", reference, extra={"action": "image_pull"})
        deadline = time.monotonic() + PULL_S
        layers: dict[str, tuple[int, int]] = {}
        try:
            with engine_errors():
                said: Iterator[dict[str, Any]] = self._puller.client().pull(reference, stream=True, decode=True)
            for line in _heard(said):
                if "error" in line:
                    raise _missing(reference, str(line["error"])[:600])
                _count(line, layers)
                self._bound(reference, layers, deadline)
                if layers:
                    done, total = map(sum, zip(*layers.values(), strict=True))
                    report(min(99, done * 100 // max(total, 1)))
        except APIError as error:
            raise _missing(reference, answer(error)) from error

    def _bound(self, reference: str, layers: dict[str, tuple[int, int]], deadline: float) -> None:
        """Raises ImageRefusedError. Whoever stops listening to a pull has ended it."""
        if sum(total for _, total in layers.values()) > MAX_PULL_BYTES:
            raise ImageRefusedError(f"{reference} has more than {MAX_PULL_BYTES:,} bytes", code="image_too_large")
        if time.monotonic() > deadline:
            raise ImageRefusedError(
                f"{reference} could not be pulled within {PULL_S:.0f} s",
                hint="Try again later, or ask the operator to pull it on the worker hosts.",
                code="image_missing",
            )
        if shutil.disk_usage(self._run_dir).free < self._settings.min_free_bytes:
            raise ImageRefusedError(
                f"there is no room for {reference} on the worker's host",
                hint="Ask the operator for room: FARHAND_MIN_FREE_BYTES is the floor.",
                code="image_no_room",
            )

    # ---- looking -----------------------------------------------------------------------------------------------

    def _look(self, reference: str, image_id: str) -> None:
        """Raises ImageRefusedError with what is missing, EngineUnavailableError."""
        directory.make_root(self._run_dir)
        sandbox_id, hold = hold_new(self._run_dir)
        name, removed = self._name(sandbox_id), False
        try:
            written = self._ask(reference, image_id, sandbox_id, name)
        finally:
            try:
                with engine_errors():
                    self._engine.client().remove_container(name, v=True, force=True)
                removed = True
            except APIError as error:
                removed = error.status_code == 404
            finally:
                hold.give_up(forget=removed)
        _judge(reference, written)

    def _ask(self, reference: str, image_id: str, sandbox_id: str, name: str) -> str:
        """What the look wrote."""
        users = directory.users()
        nowhere = Path("/nonexistent")
        spec = SandboxSpec(sandbox_id, nowhere, nowhere, image=image_id)
        config = container_config(self._settings, spec, users, self._deployment)
        config |= {"entrypoint": ["python3", "-I", "-S", "-c", _LOOK], "user": f"{users.helper}:{users.helper}"}
        limits = host_config(self._settings, spec, users) | {"mounts": [], "cap_add": []}
        client = self._engine.client()
        try:
            with engine_errors():
                client.create_container(**config, name=name, host_config=client.create_host_config(**limits))
                client.start(name)
                client.wait(name, timeout=LOOK_S)
                written: bytes = client.logs(name, stdout=True, stderr=True, tail=20)
        except APIError as error:
            said = answer(error)
            if "python3" in said and ("not found" in said or "no such file" in said):
                raise _lacks(reference, "python3 on its PATH", "image_without_python") from error
            raise ImageRefusedError(f"no sandbox can be made of {reference}: {said}") from error
        return written[-4096:].decode(errors="replace").strip()


def _heard(said: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines of a pull; an engine that falls silent or goes away is told as such."""
    with engine_errors():
        yield from said


def _count(line: dict[str, Any], layers: dict[str, tuple[int, int]]) -> None:
    detail = line.get("progressDetail") or {}
    if line.get("status") == "Downloading" and detail.get("total"):
        layers[str(line.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))


def _judge(reference: str, written: str) -> None:
    try:
        found = json.loads(written.rpartition("\n")[2])
        python, git, shell = tuple(found["python"]), bool(found["git"]), bool(found["shell"])
    except (ValueError, KeyError, TypeError):
        raise ImageRefusedError(f"Python does not run in {reference}: {written[-600:] or 'it wrote nothing'}") from None
    if python < OLDEST_PYTHON:
        version, oldest = (".".join(map(str, pair)) for pair in (python, OLDEST_PYTHON))
        raise _lacks(reference, f"Python {oldest} or later (its python3 is {version})", "image_python_too_old")
    if not git:
        raise _lacks(reference, "git on its PATH", "image_without_git")
    if not shell:
        raise _lacks(reference, "a shell (/bin/sh or bash)", "image_without_shell")


def _lacks(reference: str, what: str, code: str) -> ImageRefusedError:
    return ImageRefusedError(f"{reference} has no {what.removeprefix('a ')}", code=code)


def _missing(reference: str, why: str) -> ImageRefusedError:
    return ImageRefusedError(
        f"the worker's engine cannot have {reference}: {why}",
        hint="Check its name and tag, and that the worker hosts may pull it; then save the project again.",
        code="image_missing",
    )
