"""density: many tasks at a time on one host, of agents that mostly wait for their model. Part of `sandbox`.

Each task makes 20 steps, and its model takes 10 s for each answer. All must complete. What a sandbox takes is read
from its cgroup while all of them wait; the latency of an event is from the time it carries (before its commit) until
a client has it over the WebSocket, of a sample of the tasks.
"""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.client.rest import Client
from tests.bench import event
from tests.bench.figures import Figure
from tests.bench.slow_model import SlowModel
from tests.bench.stage import Stage, running

TASKS = 50
STEPS = 20
DELAY_S = 10.0
WATCHED = 40
PATIENCE_S = 1800.0
_MB = 1e6


class Watch:
    """A client of one task: how late each event of it came, in milliseconds, and how it ended."""

    def __init__(self, client: Client, task_id: str) -> None:
        self.latencies: list[float] = []
        self._client = client
        self._task_id = task_id
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)

    def _follow(self) -> None:
        live = False
        for frame in self._client.stream(self._task_id):
            if frame["type"] == "subscribed":
                live = True
            if live and frame["type"] == "event":
                at = datetime.fromisoformat(frame["event"]["at"])
                self.latencies.append((datetime.now(UTC) - at).total_seconds() * 1000)


def run(tasks: int = TASKS) -> list[Figure]:
    slots = str(tasks)
    with (
        SlowModel(STEPS, DELAY_S) as model,
        running(
            {},
            FARHAND_ANTHROPIC_BASE_URL=model.base_url,
            FARHAND_WORKER_SLOTS=slots,
            FARHAND_MAX_CONCURRENT_TASKS=slots,
            FARHAND_WARM_SANDBOXES="0",
        ) as stage,
    ):
        worker = stage.deployment.worker_pids()[0]
        idle = _resident(worker)
        ids, watches = _submit(stage, tasks)
        model.wait_until_served(tasks * STEPS // 2, PATIENCE_S)  # by then every sandbox runs
        memory, floor = _memory(stage), [_idle_python(stage.settings.agent_image)]
        completed = _ended(stage, ids, watches)
        peak, raw = _resident(worker, "VmHWM"), _p99(event.raw(stage.settings.redis_url))
        late = [latency for watch in watches for latency in watch.latencies]
    name = f"density {tasks}"
    return [
        Figure(name, f"of {tasks} tasks complete", "all", "", [completed], [float(tasks)], target=">= 1"),
        Figure(name, "memory of a sandbox", "python3 -S that waits", "MB", memory, floor, target="<= 16 MB"),
        Figure(name, "the worker's peak", "the worker before", "MB", [peak], [idle], target="<= 1500 MB"),
        Figure(name, "p99 of events", "p99 of Redis alone, idle", "ms", [_p99(late)], [raw], target="<= 250 ms"),
    ]


def _submit(stage: Stage, tasks: int) -> tuple[list[str], list[Watch]]:
    ids, watches = [], []
    for number in range(tasks):
        task = stage.client.submit(repo_url=stage.repo_url, prompt=f"go {number} [trajectory:steps]")
        ids.append(str(task["id"]))
        if number % max(1, tasks // WATCHED) == 0:
            watches.append(Watch(stage.deployment.client(), ids[-1]))
    return ids, watches


def _ended(stage: Stage, ids: list[str], watches: list[Watch]) -> float:
    """How many have completed, once all have ended."""
    for watch in watches:
        watch.join()
    deadline = time.monotonic() + PATIENCE_S
    states: dict[str, Any] = {}
    while time.monotonic() < deadline:
        states |= {id_: stage.client.task(id_)["status"] for id_ in ids if states.get(id_) != "completed"}
        if all(state in {"completed", "failed", "cancelled"} for state in states.values()):
            break
        time.sleep(1)
    return float(sum(state == "completed" for state in states.values()))


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _resident(pid: int, what: str = "VmRSS") -> float:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{what}:")]
    return int(line.split()[1]) * 1024 / _MB


def _memory(stage: Stage) -> list[float]:
    """Of each sandbox that runs, as the engine counts it."""
    ids = [path.name for path in (stage.settings.run_dir / "s").iterdir() if path.is_dir()]
    columns = '{{.ID}} {{.Label "farhand.sandbox"}}'
    containers = _docker("ps", "--filter", "label=farhand.sandbox", "--format", columns)
    ours = [line.split()[0] for line in containers.splitlines() if line.split()[1] in ids]
    return [_charged(container) for container in ours]


def _idle_python(image: str) -> float:
    name = f"farhand-bench-{uuid.uuid4().hex[:8]}"
    wait = ["python3", "-I", "-S", "-c", "import time; time.sleep(600)"]
    _docker("run", "-d", "--rm", "--network", "none", "--name", name, image, *wait)
    try:
        time.sleep(1)
        return _charged(name)
    finally:
        _docker("kill", name)


def _charged(container: str) -> float:
    """What its cgroup is charged with, without the page cache that can be had back at any time."""
    pid = _docker("inspect", "--format", "{{.State.Pid}}", container)
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            return _usage(Path(f"/sys/fs/cgroup{path}"), "memory.current", "inactive_file")
        if controllers == "memory":
            return _usage(Path(f"/sys/fs/cgroup/memory{path}"), "memory.usage_in_bytes", "total_inactive_file")
    raise AssertionError("this host has no memory cgroup")


def _usage(group: Path, usage: str, reclaimable: str) -> float:
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return (int((group / usage).read_text()) - int(stat[reclaimable])) / _MB


def _docker(*command: str) -> str:
    return subprocess.run(["docker", *command], check=True, capture_output=True, text=True).stdout.strip()
