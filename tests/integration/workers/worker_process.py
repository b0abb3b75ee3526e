"""Real workers (`celery worker`) on this host, for tests of what happens between them and their servers.

Sandboxes are local, models are recordings: no engine, no network, and a start takes as long as the imports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from infra.cli.launch import service_environment, worker_command
from infra.cli.sample_repo import SampleRepo
from infra.services import Services
from infra.tasks.log import TaskRow
from infra.tasks.states import TERMINAL
from tests.services import SECRET_KEY
from tests.world import World

TIMEOUT_S = 60.0


class WorkerProcess:
    """One worker; `environment` are its settings. A context manager: it is killed at the end."""

    def __init__(self, number: int, environment: dict[str, str], *, slots: int) -> None:
        self._command = worker_command(slots=slots, number=number)
        self._environment = service_environment({**os.environ, **environment, "FARHAND_WORKER_SLOTS": str(slots)})
        self._changed = threading.Condition()
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("worker_ready")
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def count(self, words: str) -> int:
        """Lines of its log with these words."""
        return sum(words in line for line in list(self.lines))

    def wait_for(self, words: str, more_than: int = 0) -> None:
        """Until more than so many lines of its log have these words."""
        with self._changed:
            said = self._changed.wait_for(lambda: self.count(words) > more_than or self._ended, TIMEOUT_S)
        assert said, f"not within {TIMEOUT_S:.0f} s: {words!r}\n{self.log}"
        assert self.count(words) > more_than, self.log

    @property
    def log(self) -> str:
        return "\n".join(self.lines[-100:])

    _ended = False

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass
class Crew:
    """Workers on one database, a repository, and recordings that the test makes up as it goes."""

    services: Services
    world: World
    directory: Path
    """Which sandboxes may enter, though not write to."""
    workers: list[WorkerProcess] = field(default_factory=list)

    def task(self, name: str, *, user_id: UUID | None = None, held: bool = False, send: bool = True) -> UUID:
        """A task that writes its name to a file; when `held`, not before `release(name)`. Its wake-up is sent."""
        wait = f"until [ -e {self.directory}/gate/{name} ]; do sleep 0.03; done; " if held else ""
        self._record(name, f"{wait}echo {name} >> counter")
        task_id = self.world.task(user_id=user_id, model=f"replay:{name}")
        if send:
            self.services.wake_ups.send(task_id, 1)
        return task_id

    def release(self, name: str) -> None:
        (self.directory / "gate" / name).touch()

    def until(self, look: Callable[[], Any], what: str) -> None:
        """For what sends no signal: rows that others write."""
        pause = threading.Event()
        for _ in range(int(TIMEOUT_S / 0.05)):
            if look():
                return
            pause.wait(0.05)
        raise AssertionError(f"not within {TIMEOUT_S:.0f} s: {what}\n" + "\n".join(one.log for one in self.workers))

    def running(self, task_id: UUID) -> None:
        """Wait until its command runs."""
        self.until(lambda: "tool_call" in self.world.events(task_id), f"task {task_id} runs")

    def ended(self, task_id: UUID) -> TaskRow:
        """Its row, once it has ended."""
        self.until(lambda: self.world.row(task_id).status in TERMINAL, f"task {task_id} has ended")
        return self.world.row(task_id)

    def _record(self, name: str, command: str) -> None:
        call = {"type": "tool_use", "id": "t1", "name": "run_command", "input": {"command": command, "timeout_s": 300}}
        turns = [([call], "tool_use"), ([{"type": "text", "text": "Done."}], "end_turn")]
        steps = [{"response": {"content": content, "stop_reason": reason}} for content, reason in turns]
        (self.directory / "recordings" / f"{name}.json").write_text(json.dumps({"version": 1, "steps": steps}))


@contextmanager
def a_crew(services: Services, directory: Path, *, workers: int = 1, slots: int = 1, **more: str) -> Iterator[Crew]:
    """`more` are settings of the workers, such as `FARHAND_DATABASE_URL` for another way to the database."""
    for part in ("gate", "recordings", "repo"):
        (directory / part).mkdir()
    repo = SampleRepo(directory / "repo")
    repo.make()
    settings = services.settings
    environment = {
        "FARHAND_DATABASE_URL": settings.database_url,
        "FARHAND_REDIS_URL": settings.redis_url,
        "FARHAND_RUN_DIR": str(settings.run_dir),
        "FARHAND_SECRET_KEYS": SECRET_KEY,
        "FARHAND_SANDBOX": "local",
        "FARHAND_ALLOWED_REPO_HOSTS": "file",
        "FARHAND_RECORDINGS": str(directory / "recordings"),
        "FARHAND_WARM_SANDBOXES": "0",
        **more,
    }
    crew = Crew(services, World.make(services, repo_url=repo.url), directory)
    started = [WorkerProcess(number, environment, slots=slots) for number in range(1, workers + 1)]
    try:
        for one in started:
            crew.workers.append(one.__enter__())
        yield crew
    finally:
        for one in crew.workers:
            one.__exit__()
