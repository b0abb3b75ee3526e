"""Sandboxes in containers: the one that keeps the promises G5 to G7.

Starting takes two calls to the engine, create and start. The engine is asked for nothing that it says anyway:
a missing image shows when the container is created.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker.errors import APIError, DockerException

from infra.errors import ConfigurationError
from infra.settings import Settings
from workers.sandbox import directory
from workers.sandbox.base import (
    DETAIL_BYTES,
    KILL_S,
    EngineUnavailableError,
    Exit,
    ImageMissingError,
    Kind,
    SandboxSpec,
    SandboxStartError,
)
from workers.sandbox.container import DEPLOYMENT_LABEL, SANDBOX_LABEL, container_config, host_config
from workers.sandbox.engine import Engine, answer, engine_errors
from workers.sandbox.watch import ExitWatch

log = logging.getLogger(__name__)

ENGINE_TIMEOUT_S = 30.0
"""Create, start, remove: an engine that starts fifty at once takes seconds for each."""
KILL_TIMEOUT_S = 5.0
ENGINE_RETRY_S = 1.0
DETAIL_LINES = 40


class DockerSandbox:
    """A container. See `base.Sandbox`."""

    def __init__(self, sandbox_id: str, path: Path, container: str, engine: Engine, killer: Engine) -> None:
        self.id = sandbox_id
        self._path = path
        self._container = container
        self._engine = engine
        self._killer = killer
        self._killed = threading.Event()
        self._watch = ExitWatch(f"sandbox-{sandbox_id}", self._until_exit)

    def wait(self, timeout: float) -> Exit | None:
        return self._watch.wait(timeout)

    def kill(self) -> None:
        if self._watch.wait(0) is not None:
            return
        self._killed.set()
        try:
            with engine_errors():
                self._killer.client().kill(self._container, signal="KILL")
        except APIError as error:
            if error.status_code not in (404, 409):  # gone, not running
                raise EngineUnavailableError(f"the Docker Engine cannot kill the sandbox: {answer(error)}") from error
        if self._watch.wait(KILL_S) is None and self._is_running():
            raise EngineUnavailableError(f"the Docker Engine has not killed the sandbox within {KILL_S:.0f} s")

    def remove(self) -> None:
        self._killed.set()
        _remove(self._engine, self._container, self._path)

    def _until_exit(self) -> Exit:
        """Outlives restarts of the engine, with which containers may or may not end."""
        troubled = False
        while True:
            try:
                code: int = self._engine.client().wait(self._container, timeout=None)["StatusCode"]
                return Exit(code, False, "") if code == 0 or self._killed.is_set() else self._describe(code)
            except APIError as error:
                if error.status_code == 404:
                    return Exit(None, False, "the container is gone")
                reason = answer(error)
            except (DockerException, OSError, EngineUnavailableError) as error:
                reason = str(error)
            if not troubled:
                action = {"action": "sandbox_watch_retry", "sandbox": self.id}
                log.warning("lost sight of sandbox %s, trying again: %s", self.id, reason, extra=action)
                troubled = True
            time.sleep(ENGINE_RETRY_S)

    def _describe(self, code: int) -> Exit:
        try:
            client = self._engine.client()
            state = client.inspect_container(self._container)["State"]
            written: bytes = client.logs(self._container, stdout=True, stderr=True, tail=DETAIL_LINES)
        except APIError:  # removed meanwhile
            return Exit(code, False, "")
        detail = written[-DETAIL_BYTES:].decode(errors="replace").strip()
        return Exit(code, bool(state["OOMKilled"]), detail or str(state["Error"]))

    def _is_running(self) -> bool:
        try:
            with engine_errors():
                return bool(self._killer.client().inspect_container(self._container)["State"]["Running"])
        except APIError as error:
            return bool(error.status_code != 404)


class DockerDriver:
    """See `base.Driver`. A deployment is told from others on the same engine by its run directory."""

    kind: Kind = "docker"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir.absolute()
        self._deployment = hashlib.sha256(str(self._run_dir).encode()).hexdigest()[:12]
        self._engine = Engine(ENGINE_TIMEOUT_S)
        self._killer = Engine(KILL_TIMEOUT_S)

    def check(self) -> None:
        try:
            self.source()
        except (EngineUnavailableError, ImageMissingError, SandboxStartError) as error:
            raise ConfigurationError(error.message, hint=error.hint, code=error.code) from error

    def start(self, spec: SandboxSpec) -> DockerSandbox:
        name = self._name(spec.id)
        users = directory.users()
        client = self._engine.client()
        config = container_config(self._settings, spec, users, self._deployment)
        limits = client.create_host_config(**host_config(self._settings, spec, users))
        try:
            with self._start_errors(), engine_errors():
                container: str = client.create_container(**config, name=name, host_config=limits)["Id"]
                client.start(container)
        except BaseException:  # a cancelled greenlet included
            self._discard(name)
            raise
        return DockerSandbox(spec.id, spec.directory, container, self._engine, self._killer)

    def running(self) -> set[str]:
        return self._containers({"status": "running"})

    def find(self, spec: SandboxSpec) -> DockerSandbox:
        return DockerSandbox(spec.id, spec.directory, self._name(spec.id), self._engine, self._killer)

    def source(self) -> str:
        with self._start_errors(), engine_errors():
            return str(self._engine.client().inspect_image(self._settings.agent_image)["Id"])

    def leftovers(self) -> list[str]:
        return sorted(self._containers({}) | {*directory.found(self._run_dir)})

    def remove(self, sandbox_id: str) -> None:
        _remove(self._engine, self._name(sandbox_id), directory.path_of(self._run_dir, sandbox_id))

    def close(self) -> None:
        self._engine.close()
        self._killer.close()

    def _containers(self, filters: dict[str, str]) -> set[str]:
        wanted = {"label": f"{DEPLOYMENT_LABEL}={self._deployment}", **filters}
        with engine_errors():
            containers = self._engine.client().containers(all=True, filters=wanted)
        return {container["Labels"][SANDBOX_LABEL] for container in containers}

    def _name(self, sandbox_id: str) -> str:
        return f"farhand-{self._deployment}-{sandbox_id}"

    def _discard(self, name: str) -> None:
        """Of a start that failed. An engine that is away may still make the container: then it is a leftover."""
        try:
            _remove_container(self._engine, name)
        except EngineUnavailableError as error:
            log.warning("container %s may be left: %s", name, error, extra={"action": "sandbox_leftover"})

    @contextmanager
    def _start_errors(self) -> Iterator[None]:
        """The engine's refusals, as errors that say what to do."""
        try:
            yield
        except APIError as error:
            if error.status_code == 404 and "no such image" in answer(error).lower():
                raise ImageMissingError(f"the engine has no image {self._settings.agent_image!r}") from error
            raise SandboxStartError(f"the Docker Engine cannot start a sandbox: {answer(error)}") from error


def _remove(engine: Engine, container: str, path: Path) -> None:
    """Files first: a container that is being made in this moment cannot start any more without its mounts."""
    try:
        directory.remove(path)
    finally:
        _remove_container(engine, container)


def _remove_container(engine: Engine, container: str) -> None:
    try:
        with engine_errors():
            client = engine.client()
            try:
                client.remove_container(container, v=True, force=True)
            except APIError as error:
                if error.status_code != 409:
                    raise
                client.wait(container, condition="removed")  # somebody else removes it
    except APIError as error:
        if error.status_code != 404:
            raise EngineUnavailableError(f"the Docker Engine cannot remove a sandbox: {answer(error)}") from error
