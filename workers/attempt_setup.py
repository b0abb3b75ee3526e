"""The setup of one attempt's project: taken from what this host has kept, or made by the attempt itself.

`obtain` is called before the job is handed over, and says which of the two it is. While another task of this host makes
the same result it waits, and the user is told; should that one fail or die, this attempt makes it. `workers.setups`
says who may write what, and what happens when somebody dies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from agent_runtime.protocol import Setup, SetupDone
from infra.environment import Environment
from infra.errors import AuthorityLostError, InvalidInputError, TaskFailedError
from infra.services import Services
from infra.tasks import records
from infra.tasks.log import TaskRow
from infra.tasks.transitions import Lease
from workers.git.errors import CommandFailed, local_error
from workers.sandbox.base import Driver
from workers.setup_key import setup_key
from workers.setups import Building, SetupStore
from workers.workspace import Progress, Workspace

LOOK_S = 0.2
_NAMES_SHOWN = 20
_KEPT: Setup = {"kept": True, "script": "", "environment": {}, "timeout_s": 0.0}


class AttemptSetup:
    """`is_over` says whether the attempt has ended: then nobody waits any more. `on_done` is told once it was built."""

    def __init__(
        self,
        services: Services,
        driver: Driver,
        lease: Lease,
        task: TaskRow,
        *,
        is_over: Callable[[], bool],
        on_done: Callable[[], None],
    ) -> None:
        self._services = services
        self._driver = driver
        self._lease = lease
        self._task = task
        self._is_over = is_over
        self._on_done = on_done
        self._store = SetupStore(services.settings)
        self._progress = Progress(services, lease)
        self._building: Building | None = None
        self._target = Path()
        self._closing = threading.Lock()

    def obtain(self, environment: Environment, image_id: str, workspace: Workspace, target: Path) -> Setup:
        """What the job says of the setup. `target` is where its result is to be for the sandbox.

        Raises:
            TaskFailedError: `setup_needs_docker`.
            AuthorityLostError: the attempt ended while this waited.
        """
        assert environment.setup_script is not None  # else nobody asks  # noqa: S101
        if self._driver.kind == "local":
            raise TaskFailedError(
                "the project has a setup script, and what it leaves does not work in another `local` sandbox",
                hint="Take the script out of the project; or start a Docker Engine and use the docker sandbox.",
                code="setup_needs_docker",
            )
        self._target = target
        if self._building is None and not self._begin(self._key(environment, image_id, workspace), target):
            self._progress.report("setup_kept", 100)
            return _KEPT
        self._progress.report("setup", 0)
        return {
            "kept": False,
            "script": environment.setup_script,
            "environment": dict(environment.variables),
            "timeout_s": self._services.settings.setup_timeout,
        }

    def kept_in(self, archive: Path) -> Setup | None:
        """What the job of an adopted sandbox says of it: its loop either has it, or finds it where it was put."""
        return _KEPT if archive.exists() else None

    def part(self, offset: int, data: bytes) -> None:
        """From the sandbox. Raises as `Building.part`, and InvalidInputError where nothing is to be built."""
        self._require_building().part(offset, data)

    def done(self, done: SetupDone) -> None:
        """From the sandbox: all of it has come. Raises as `Building.done`."""
        self._require_building().done(done["bytes"], done["sha256"], self._target)
        names = [str(name)[:200] for name in done["not_kept"][:_NAMES_SHOWN]]
        if names:
            text = f"the setup script has left files that git neither tracks nor ignores, which are not kept: {names}"
            with self._services.tasks.transaction() as tx:
                records.append_event(tx, self._lease, ("error", {"code": "setup_files_left", "message": text}))
        self._progress.report("setup", 100)

    def over(self) -> None:
        """From the sandbox: its agent works. Any number of times."""
        self.close()
        self._on_done()

    def close(self) -> None:
        """Whoever waits for this one's result may begin. Any number of times."""
        with self._closing:
            building, self._building = self._building, None
        if building is not None:
            building.give_up()

    def _begin(self, key: str, target: Path) -> bool:
        """Whether this attempt is to build. Waits for others that do."""
        pause = threading.Event()
        while not self._store.fetch(key, target):
            building = self._store.begin(key)
            if building is None:
                self._progress.report("setup_wait", 0)
                pause.wait(LOOK_S)
            elif self._store.fetch(key, target):  # it was finished between the two looks
                building.give_up()
                return False
            else:
                with self._closing:
                    self._building = building
            if self._is_over():
                self.close()
                raise AuthorityLostError("the attempt is over")
            if self._building is not None:
                return True
        return False

    def _key(self, environment: Environment, image_id: str, workspace: Workspace) -> str:
        try:
            return setup_key(environment, image_id, self._task.project_id, workspace)
        except CommandFailed as failure:
            raise local_error(failure, "listing files") from None

    def _require_building(self) -> Building:
        if self._building is None:
            raise InvalidInputError("this attempt has no setup to build")
        return self._building
