"""A whole deployment as an operator starts it: `farhand up`, in processes of its own, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from infra.client.rest import Client
from infra.settings import Settings

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0


class Deployment:
    """`farhand up` on the database and Redis of `settings`, with `environment` on top. A context manager."""

    def __init__(self, settings: Settings, data: Path, *arguments: str, **environment: str) -> None:
        self._command = [sys.executable, "-P", "-m", "infra.cli", "up", "--data", str(data), *arguments]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "FARHAND_DATABASE_URL": settings.database_url,
            "FARHAND_REDIS_URL": settings.redis_url,
            "FARHAND_RUN_DIR": str(settings.run_dir),
            "FARHAND_SECRET_KEYS": ",".join(key.get_secret_value() for key in settings.secret_keys),
            **environment,
        }
        self._data = data
        self.output: deque[str] = deque(maxlen=400)
        self.url = ""

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
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_TIMEOUT_S) or not self.url:
            self.__exit__()
            raise AssertionError("the deployment did not start:\n" + "".join(self.output))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError("the deployment did not stop:\n" + "".join(self.output)) from None
        finally:
            self._reader.join(STOP_TIMEOUT_S)
            if self._process.stdout is not None:
                self._process.stdout.close()

    @property
    def token(self) -> str:
        return (self._data / "token").read_text().strip()

    def client(self) -> Client:
        return Client(self.url, self.token)

    def worker_pids(self) -> list[int]:
        """Worker processes of this deployment, by the command line that the design promises."""
        return [pid for pid, command in _descendants(self._process.pid) if "celery" in command and "worker" in command]

    def logs(self) -> str:
        files = sorted(self._data.glob("logs/*.log"))
        return "".join(self.output) + "".join(f"== {file.name}\n{file.read_text()[-6000:]}" for file in files)

    def all_logs(self) -> str:
        return "".join(file.read_text() for file in sorted(self._data.glob("logs/*.log")))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            if line.startswith("ready "):
                self.url = line.split()[1]
                self._ready.set()
        self._ready.set()


def watch(client: Client, task_id: str, *, after: int = 0) -> list[dict[str, Any]]:
    """Every frame of a task over the WebSocket until it has ended."""
    return list(client.stream(task_id, after=after))


def events_of(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [frame["event"] for frame in frames if frame["type"] == "event"]


def _descendants(root: int) -> Iterator[tuple[int, str]]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    queue = [root]
    while queue:
        for pid in children.get(queue.pop(), []):
            queue.append(pid)
            try:
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
