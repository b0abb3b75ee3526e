"""A deployment to be hurt: its processes by name, what its tasks record, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from infra.client.rest import Client
from infra.settings import Settings
from tests.contract.engine_proxy import EngineProxy
from tests.deployment import Deployment
from tests.services import Postgres, Redis
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn
from workers.sandbox.container import DEPLOYMENT_LABEL, SANDBOX_LABEL
from workers.sandbox.docker import DockerDriver

TIMEOUT_S = 120.0

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, timeout: float = TIMEOUT_S) -> T:
    """What `look` returns, once that is true. For what sends no signal: processes and containers of others."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        pause.wait(0.03)
    return found


@dataclass
class Stage:
    """One deployment with its stand-ins and servers."""

    deployment: Deployment
    client: Client
    settings: Settings
    git_host: GitServer
    model: ModelStandIn
    postgres: Postgres
    redis: Redis
    engine: EngineProxy
    repo_url: str
    waiting: int = 0
    """How many warm sandboxes it keeps, which nobody has left behind."""

    @property
    def repo(self) -> str:
        """Its name at the git host."""
        return self.repo_url.rpartition("/")[2].removesuffix(".git")

    # ---- tasks -------------------------------------------------------------------------------------------------

    def submit(self, trajectory: str) -> Followed:
        """A task whose model plays `trajectory`, watched over the stream from its first event on."""
        task = self.client.submit(repo_url=self.repo_url, prompt=f"do it [trajectory:{trajectory}]")
        return Followed(self, trajectory, task["id"])

    def asked(self, trajectory: str) -> dict[int, int]:
        """How often the model was asked for each turn."""
        turns = [request.turn for request in self.model.requests if request.trajectory == trajectory]
        return dict(Counter(turn for turn in turns if turn is not None))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            return connection.execute(query.encode(), values).fetchall()

    @contextmanager
    def locked(self, task_id: str) -> Iterator[Callable[[], None]]:
        """While entered nobody can write for this task. Yields how to wait until somebody tries."""
        with psycopg.connect(self.settings.database_url) as connection:
            connection.execute(b"select from tasks where id = %s for update", (task_id,))
            (own,) = connection.execute(b"select pg_backend_pid()").fetchone() or (0,)
            waiting = "select 1 from pg_stat_activity where %s = any(pg_blocking_pids(pid))"

            def wait_for_a_write() -> None:
                eventually(lambda: self.rows(waiting, own), "a write waits for the lock")

            yield wait_for_a_write
            connection.rollback()

    def cut_blocked_writes(self) -> None:
        """Postgres gives up what waits for a lock, as it does when the host that asked is gone."""
        blocked = "from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"
        self.rows(f"select pg_terminate_backend(pid) {blocked}")
        eventually(lambda: not self.rows(f"select pid {blocked}"), "nothing waits for a lock")

    # ---- processes ---------------------------------------------------------------------------------------------

    def worker(self, number: int = 1) -> int:
        """The process of a worker, once there is one."""

        def find() -> int | None:
            pids = [pid for pid in self.deployment.worker_pids() if f"worker{number}@" in command_of(pid)]
            return pids[0] if pids else None

        return eventually(find, f"worker {number} runs") or 0

    def worker_of(self, task_id: str) -> int:
        """The process of the worker that runs a task."""
        name = "select w.name from workers w join tasks t on t.worker_id = w.id where t.id = %s"
        ((worker,),) = self.rows(name, task_id)
        return self.worker(int(worker.removeprefix("worker").partition("@")[0]))

    def kill_worker_of(self, task_id: str) -> None:
        """SIGKILL, in the middle of whatever it does; `up` starts another one."""
        pid = self.worker_of(task_id)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid), "the killed worker is gone")

    def lose_host_of(self, task_id: str) -> None:
        """Worker and sandbox die together, and nobody can tell the other: what is left is in Postgres."""
        pid = self.worker_of(task_id)
        os.kill(pid, signal.SIGSTOP)
        subprocess.run(["docker", "kill", *self.containers_of(task_id)], check=True, capture_output=True)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid), "the killed worker is gone")

    def containers_of(self, task_id: str) -> list[str]:
        """The sandbox of a task's current attempt, if it is there."""
        named = "select a.sandbox_id from attempts a join tasks t on t.id = a.task_id and t.attempt = a.number"
        ((sandbox,),) = self.rows(f"{named} where t.id = %s", task_id)
        listed = ["docker", "ps", "--quiet", "--filter", f"label={SANDBOX_LABEL}={sandbox}"]
        return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()

    def containers(self) -> list[str]:
        label = f"label={DEPLOYMENT_LABEL}={DockerDriver(self.settings)._deployment}"
        listed = ["docker", "ps", "--all", "--quiet", "--filter", label]
        return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()

    def run_inside(self, *command: str) -> None:
        """In the only sandbox there is."""
        (container,) = self.containers()
        subprocess.run(["docker", "exec", container, *command], check=True)

    def files(self) -> list[str]:
        """What sandboxes and attempts keep below the run directory."""
        return [str(path) for part in ("s", "t") for path in (self.settings.run_dir / part).glob("*")]

    def sandboxes(self) -> set[str]:
        """Ids of all there are, by their directories."""
        return {path.name for path in (self.settings.run_dir / "s").glob("*") if path.suffix != ".hold"}

    def processes(self, word: str = "") -> dict[int, str]:
        """All that run with this deployment's settings, whoever started them, and have `word` in their command."""
        mark = f"FARHAND_RUN_DIR={self.settings.run_dir}".encode()
        found = {pid: command_of(pid) for pid in _pids() if mark in _environment(pid).split(b"\0")}
        return {pid: command for pid, command in found.items() if word in command}

    def assert_clean(self) -> None:
        """No container, process, file of a sandbox or half-done row is left by what has ended."""
        eventually(lambda: not any(map(children_of, self.deployment.worker_pids())), "no child of a worker is left")
        eventually(lambda: len(self.containers()) == self.waiting, "no container is left")
        # Of a sandbox that waits there are its directory and its hold.
        eventually(lambda: len(self.files()) == 2 * self.waiting, f"no file is left: {self.files()}")
        assert self.rows("select id from tasks where reserved_usd <> 0 or lease_token is not null") == []
        assert self.rows("select id from model_calls where state = 'reserved'") == []
        assert self.rows("select task_id from attempts where ended_at is null") == []


class Followed:
    """A task and all frames that its stream brought."""

    def __init__(self, stage: Stage, trajectory: str, task_id: str) -> None:
        self.stage = stage
        self.trajectory = trajectory
        self.id = task_id
        self.frames: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [frame["event"] for frame in list(self.frames) if frame["type"] == "event"]

    def wait_for(self, type_: str, count: int = 1) -> dict[str, Any]:
        """The event of this type, once there are `count` of them."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if event["type"] == type_]

        with self._changed:
            reached = self._changed.wait_for(lambda: len(found()) >= count or self._problem, TIMEOUT_S)
        assert reached, (type_, self.events, self.stage.deployment.logs())
        assert self._problem is None, self._problem
        return found()[count - 1]

    def end(self, status: str = "completed") -> dict[str, Any]:
        """The task once it has ended as it should, after checks that hold whatever has happened to it."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), (self.events, self.stage.deployment.logs())
        assert self._problem is None, self._problem
        task = self.stage.client.task(self.id)
        assert task["status"] == status, (task["error"], self.stage.deployment.logs())
        # G4: each event once and in order, over whatever connections; nothing recorded is missing.
        assert [event["seq"] for event in self.events] == list(range(1, task["last_seq"] + 1))
        assert self.events == list(self.stage.client.events(self.id))
        # G3: each step and each call is recorded once; G9: everything in the air has been settled.
        steps = [event["data"]["step"] for event in self.of("usage")]
        assert steps == list(range(1, len(steps) + 1))
        for type_ in ("tool_call", "tool_result"):
            calls = [event["data"]["call_id"] for event in self.of(type_)]
            assert len(calls) == len(set(calls)), calls
        return task

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type_]

    def of_type(self, frame_type: str) -> list[dict[str, Any]]:
        """Frames that are no events."""
        return [frame for frame in list(self.frames) if frame["type"] == frame_type]

    def output(self, call_id: str) -> str:
        (event,) = [event for event in self.of("tool_result") if event["data"]["call_id"] == call_id]
        return str(event["data"]["output"])

    def pushed(self, file: str) -> str:
        """A file on the task's branch."""
        (event,) = self.of("branch_pushed")
        repo = self.stage.git_host.path(self.stage.repo)
        return run_git("show", f"{event['data']['branch']}:{file}", cwd=repo)

    def _follow(self) -> None:
        try:
            for frame in self.stage.client.stream(self.id):
                with self._changed:
                    self.frames.append(frame)
                    self._changed.notify_all()
        except Exception as problem:  # noqa: BLE001  (the waiting test raises it)
            with self._changed:
                self._problem = problem
                self._changed.notify_all()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def children_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def runs(command: str) -> bool:
    """Whether a process with exactly this command line runs, in a container or not."""
    return any(command_of(pid) == command for pid in _pids())


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
