"""Worker hosts: each with a run directory, a name, and ways of its own to Postgres, Redis and the engine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.cli import launch
from infra.settings import Settings
from tests.contract.engine_proxy import EngineProxy
from tests.referee.parts import Part
from tests.referee.tcp_proxy import TcpProxy
from workers.sandbox.container import DEPLOYMENT_LABEL, SANDBOX_LABEL


def worker_command(slots: int, host: str) -> tuple[str, ...]:
    """The product's own, with the name of a host that is not this machine's."""
    *command, _name = launch.worker_command(slots=slots)
    return (*command, f"worker1@{host}")


@dataclass
class Host:
    """One worker host. `engine` is None where sandboxes are plain processes."""

    name: str
    run_dir: Path
    worker: Part
    postgres: TcpProxy
    redis: TcpProxy
    engine: EngineProxy | None

    @property
    def worker_name(self) -> str:
        """As the database knows it."""
        return f"worker1@{self.name}"

    def sandboxes(self) -> list[str]:
        """Ids of those that run: containers, or trees of processes."""
        if self.engine is None:
            return sorted({sandbox for _pid, sandbox in self._sandbox_processes()})
        return [words[1] for words in self._containers() if words[2:3] == ["Up"]]

    def containers(self) -> list[str]:
        """Ids of all containers, running or not."""
        return [] if self.engine is None else [words[0] for words in self._containers()]

    def sandbox_files(self) -> list[str]:
        """What sandboxes and attempts keep below the run directory."""
        return [str(path) for part in ("s", "t") for path in (self.run_dir / part).glob("*") if path.suffix != ".hold"]

    def signal_sandbox(self, sandbox: str, what: signal.Signals) -> None:
        """To every process of it, from outside. Nothing happens when it is gone."""
        if self.engine is None:
            pids = [pid for pid, owner in self._sandbox_processes() if owner == sandbox]
        else:
            pids = self._container_pids(sandbox)
        try:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, what)
        except PermissionError:  # containers run as other users; whoever may use the engine may do it from there
            _signal_as_root(pids, what)

    def lose(self) -> None:
        """The machine is gone, with all that ran and lay there. The worker is not started again by this."""
        self.worker.send(signal.SIGKILL, whole_session=True)
        self.clear()

    def clear(self) -> None:
        """Nothing runs or lies here any more. The worker has ended, or is told to by the same breath."""
        for pid in processes_of(self.run_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for sandbox in self.sandboxes():
            self.signal_sandbox(sandbox, signal.SIGKILL)
        if containers := self.containers():
            subprocess.run(["docker", "rm", "--force", *containers], check=False, capture_output=True)
        self.empty()

    def empty(self) -> None:
        """Remove what is in the run directory; the runtime there is read-only, to its owner too."""
        for directory, _, _ in os.walk(self.run_dir):
            with contextlib.suppress(FileNotFoundError):
                Path(directory).chmod(0o711)
        for entry in self.run_dir.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def _containers(self) -> list[list[str]]:
        """Id, sandbox and state of each."""
        deployment = hashlib.sha256(str(self.run_dir.absolute()).encode()).hexdigest()[:12]
        shape = '{{.ID}} {{.Label "' + SANDBOX_LABEL + '"}} {{.Status}}'
        label = f"label={DEPLOYMENT_LABEL}={deployment}"
        listed = subprocess.run(
            ["docker", "ps", "--all", "--no-trunc", "--filter", label, "--format", shape],
            check=True,
            capture_output=True,
            text=True,
        )
        return [line.split() for line in listed.stdout.splitlines()]

    def _container_pids(self, sandbox: str) -> list[int]:
        for container, owner, *_state in self._containers():
            if owner == sandbox:
                top = ["docker", "top", container, "-eo", "pid"]
                listed = subprocess.run(top, check=False, capture_output=True, text=True)
                return [int(word) for word in listed.stdout.split()[1:]]
        return []

    def _sandbox_processes(self) -> list[tuple[int, str]]:
        """Process and sandbox, of all whose command line or working directory is a sandbox's of this host."""
        root = f"{self.run_dir}/s/"
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace") + "\0"
                    with contextlib.suppress(OSError):
                        words += str((entry / "cwd").readlink())
                    if root in words:
                        found.append((int(entry.name), words.partition(root)[2].split("/")[0].split("\0")[0]))
        return found


def _signal_as_root(pids: list[int], what: signal.Signals) -> None:
    image = Settings.model_fields["agent_image"].default
    kill = f"kill -{what.value} {' '.join(map(str, pids))} || true"  # some may be gone
    among = ("--rm", "--pid=host", "--network=none", "--entrypoint=/bin/sh")
    subprocess.run(["docker", "run", *among, image, "-c", kill], check=True, capture_output=True)


def processes_of(run_dir: Path) -> list[int]:
    """All that have this run directory as their setting, and git commands that a worker began there."""
    setting, place = f"FARHAND_RUN_DIR={run_dir}".encode(), f"{run_dir}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                settings, command = ((entry / name).read_bytes().split(b"\0") for name in ("environ", "cmdline"))
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it has ended
                continue
            is_git = command[0].rpartition(b"/")[2].startswith(b"git") and any(place in word for word in command)
            if (setting in settings or is_git) and state not in "ZX":
                found.append(int(entry.name))
    return found
