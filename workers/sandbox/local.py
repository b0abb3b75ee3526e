"""Sandboxes without isolation: plain processes of this host, for the demo's recording and for tests.

**This isolates nothing.** Commands see the host's files and network. There are bounds on processes, open files, the
size of one file and the memory of one process, a scrubbed environment, and a directory of its own that goes when the
sandbox goes. Started as root, commands run as `nobody` and the loop as a user without an account; otherwise all run as
the worker's own user, and a command that wants to outlive its sandbox, or to kill the worker, can.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

from agent_runtime.bundle import entry_command
from infra.errors import ConfigurationError
from infra.settings import Settings
from workers.sandbox import directory, local_processes
from workers.sandbox.base import DETAIL_BYTES, EngineUnavailableError, Exit, Kind, SandboxSpec, SandboxStartError
from workers.sandbox.local_processes import Stranger
from workers.sandbox.watch import ExitWatch

log = logging.getLogger(__name__)

OPEN_FILES = 4096
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAUNCHER = Path(__file__).with_name("local_launch.py")
_RUN_DIR_HINT = "Set FARHAND_RUN_DIR to a directory that everybody may enter, such as one in /run or /tmp."


class LocalSandbox:
    """A tree of processes. See `base.Sandbox`."""

    def __init__(self, sandbox_id: str, path: Path, supervisor: subprocess.Popen[bytes] | Stranger) -> None:
        self.id = sandbox_id
        self._path = path
        self._supervisor = supervisor
        self._watch = ExitWatch(f"sandbox-{sandbox_id}", self._until_exit)

    def wait(self, timeout: float) -> Exit | None:
        return self._watch.wait(timeout)

    def kill(self) -> None:
        _kill(self._path)
        # The watch collects the supervisor, which has ended.
        self._watch.wait(local_processes.DEADLINE_S)

    def remove(self) -> None:
        self.kill()
        directory.remove(self._path)

    def _until_exit(self) -> Exit:
        code = self._supervisor.wait()
        local_processes.kill_all(self._path / "work")  # what a killed supervisor could not end itself
        if code is None:  # another worker has started it
            return Exit(None, False, self._last_words())
        killed = code == -9
        return Exit(128 - code if code < 0 else code, False, "" if killed or code == 0 else self._last_words())

    def _last_words(self) -> str:
        try:
            with (self._path / "stderr").open("rb") as written:
                written.seek(max(0, os.fstat(written.fileno()).st_size - DETAIL_BYTES))
                return written.read(DETAIL_BYTES).decode(errors="replace").strip()
        except FileNotFoundError:  # removed meanwhile
            return ""


class LocalDriver:
    """See `base.Driver`."""

    kind: Kind = "local"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir.absolute()
        self._as_root = os.geteuid() == 0
        self._users = directory.users(directory.NOBODY_UID)
        self._starting = threading.Lock()
        log.warning(
            "sandbox `local` isolates nothing: agents reach this host's files and network%s",
            " as `nobody`" if self._as_root else f" as user {os.geteuid()}",
            extra={"action": "sandbox_local"},
        )

    def check(self) -> None:
        if not Path("/proc/self/stat").exists():
            raise ConfigurationError("the local sandbox needs Linux", hint="Start a Docker Engine and use `docker`.")
        self._python()
        if shutil.which("git", path=_search_path()) is None:
            raise ConfigurationError("there is no `git` for sandboxes", hint="Install git on this worker host.")
        if self._as_root:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._let_through()

    def start(self, spec: SandboxSpec) -> LocalSandbox:
        work = spec.directory / "work"
        try:
            self.check()
            with self._starting:
                supervisor = self._launch(spec, work)
        except ConfigurationError as error:
            raise SandboxStartError(error.message, hint=error.hint) from error
        except OSError as error:
            raise SandboxStartError(f"cannot start a local sandbox: {error}") from error
        return LocalSandbox(spec.id, spec.directory, supervisor)

    def running(self) -> set[str]:
        return {work.parent.name for work in local_processes.leaders(self._work_of(one) for one in self.leftovers())}

    def find(self, spec: SandboxSpec) -> LocalSandbox:
        work = self._work_of(spec.id)
        pid = local_processes.leaders([work]).get(work)
        return LocalSandbox(spec.id, spec.directory, Stranger(pid))

    def source(self) -> str:
        try:
            return self._python()
        except ConfigurationError as error:
            raise SandboxStartError(error.message, hint=error.hint) from error

    def leftovers(self) -> list[str]:
        return directory.found(self._run_dir)

    def remove(self, sandbox_id: str) -> None:
        path = directory.path_of(self._run_dir, sandbox_id)
        with self._starting:
            _kill(path)
            directory.remove(path / "link")  # without it nothing starts any more
        directory.remove(path)

    def close(self) -> None:
        """Nothing is open."""

    def _work_of(self, sandbox_id: str) -> Path:
        return directory.path_of(self._run_dir, sandbox_id) / "work"

    def _launch(self, spec: SandboxSpec, work: Path) -> subprocess.Popen[bytes]:
        (spec.directory / "link").stat()
        work.mkdir(mode=0o700)
        if self._as_root:
            os.chown(work, self._users.helper, self._users.helper)
        python = self._python()
        link, objects = str(spec.directory / "link"), str(spec.directory / "in/objects")
        users = self._users if self._as_root else None
        launch = [python, "-I", "-S", str(_LAUNCHER), json.dumps(self._limits())]
        command = launch + entry_command(python, str(spec.bundle), link, objects, str(work), uids=users)
        with (spec.directory / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                command,
                cwd="/",
                env={"PATH": _search_path(), "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    def _limits(self) -> dict[str, int]:
        user = self._users.helper if self._as_root else os.geteuid()
        return {
            "RLIMIT_CORE": 0,
            # Of one process, and only what it can write: interpreters reserve address space that they never touch.
            "RLIMIT_DATA": self._settings.sandbox_memory_bytes,
            "RLIMIT_FSIZE": self._settings.sandbox_disk_bytes,
            "RLIMIT_NOFILE": OPEN_FILES,
            # The kernel counts all threads of the user, whoever started them.
            "RLIMIT_NPROC": local_processes.threads_of(user) + self._settings.sandbox_pids,
        }

    def _python(self) -> str:
        """An interpreter that the users inside may run too: root's own often lies in a home that is closed to them."""
        own = str(Path(sys.executable).resolve())
        candidates = (own, "/usr/bin/python3", "/usr/local/bin/python3")
        for python in candidates:
            if os.access(python, os.X_OK) and (not self._as_root or _closed_part(Path(python)) is None):
                return python
        raise ConfigurationError(
            f"the user `nobody` cannot run Python: {_closed_part(Path(own))} is closed to it",
            hint="Install python3 in /usr/bin, use the docker sandbox, or start Farhand as an ordinary user.",
        )

    def _let_through(self) -> None:
        """The users inside need to reach their directories."""
        self._run_dir.chmod(stat.S_IMODE(self._run_dir.stat().st_mode) | 0o011)
        closed = _closed_part(self._run_dir)
        if closed is not None:
            message = f"FARHAND_RUN_DIR is in {closed}, which is closed to `nobody`"
            raise ConfigurationError(message, hint=_RUN_DIR_HINT, code="run_dir_unusable")


def _kill(path: Path) -> None:
    if not local_processes.kill_all(path / "work"):
        raise EngineUnavailableError(
            f"processes of the sandbox {path.name} live on though they were killed",
            hint="They hang in the kernel, as on a network file system that does not answer; see `ps` for state D.",
        )


def _closed_part(path: Path) -> Path | None:
    """The first directory of the path, or the file itself, that not everybody may enter or run."""
    parts = [*reversed(path.resolve().parents), path.resolve()]
    return next((part for part in parts if not part.stat().st_mode & stat.S_IXOTH), None)


def _search_path() -> str:
    """The worker's PATH without its virtual environment: a project's `python3` is the host's, not ours."""
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    places = os.environ.get("PATH", DEFAULT_PATH).split(os.pathsep)
    return os.pathsep.join(place for place in places if place and place not in own) or DEFAULT_PATH
