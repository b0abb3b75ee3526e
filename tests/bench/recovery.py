"""recovery: how long a task stands still when what runs it is lost, and how fast a worker with 50 tasks can go.

On three hosts of the referee's, at the default lease: the machine of a task is lost with all that was on it, and the
next step comes from another one; a worker process is killed, and the one that is started in its place, or one beside
it, goes on in the same sandbox. Then one worker with 50 tasks is told to end (TERM). A task that stands still is one
whose next step, by a later attempt, is not recorded yet; a step takes 0.3 s here when nothing is lost.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from infra.settings import Settings
from tests.bench.figures import Figure
from tests.bench.slow_model import SlowModel
from tests.bench.stage import Stage, running
from tests.referee.deployment import SLOTS, Deployment, deployed
from tests.referee.hosts import Host, worker_command
from tests.referee.parts import Part
from tests.referee.plans import EVERYBODY
from tests.referee.referee import choose_sandbox
from tests.referee.run import Run

ROUNDS = 5
LEASE_TTL: float = Settings.model_fields["lease_ttl"].default
TASKS, STEPS, DELAY_S = 50, 8, 10.0
PATIENCE_S = 600.0
REPO = "owner/recovery"
LOOK_S = 0.1
ROOT = Path(__file__).parents[2]
CALL = {
    "content": [{"type": "tool_use", "name": "run_command", "input": {"command": "sleep 0.2"}}],
    "stop_reason": "tool_use",
}


def run() -> list[Figure]:
    return [*_losses(), *_departure()]


# ---- what is lost --------------------------------------------------------------------------------------------------


def _losses() -> list[Figure]:
    with deployed({"long": [CALL] * 1000}, sandbox=choose_sandbox(), lease_ttl=LEASE_TTL) as deployment:
        run = Run(deployment, lambda _text: None)
        try:
            hurt = _Hurt(run)
            lost = [hurt.until_it_goes_on(_lose_host) for _ in range(ROUNDS)]
            replaced = [hurt.until_it_goes_on(_kill_worker) for _ in range(ROUNDS)]
            hurt.double_workers()
            beside = [hurt.until_it_goes_on(_kill_worker) for _ in range(ROUNDS)]
        finally:
            run.close()
    imports = [_import_worker() for _ in range(3)]
    until = "until the next step of its task"
    ttl, importing = "the lease: nobody may take the task before", "importing the worker"
    return [
        Figure("recovery host", f"host lost {until} on another", ttl, "s", lost, [LEASE_TTL], target="<= 14 s"),
        Figure("recovery worker", f"worker killed {until}, by the one started in its place", importing, "s", replaced,
               imports, target="<= 3 s"),
        Figure("recovery sibling", f"worker killed {until}, by one beside it", importing, "s", beside, imports,
               target="<= 3 s"),
    ]  # fmt: skip


class _Hurt:
    """One task at a time, whose host or worker is taken from it."""

    def __init__(self, run: Run) -> None:
        self._deployment: Deployment = run.deployment
        self._second_workers: list[Part] = []
        self._user = run.user(EVERYBODY)
        run.open_repo(REPO, EVERYBODY)

    def until_it_goes_on(self, hurt: Callable[[Host, Part], None]) -> float:
        """Seconds. The task is cancelled then, and every worker is back."""
        body = {"repo_url": self._deployment.repo_url(REPO), "prompt": "go [trajectory:long]", "budget_usd": 20}
        task = str(self._user.post("/v1/tasks", body)["id"])
        _wait_for(lambda: self._steps_after(task, 0)[2:], "it runs")
        ((attempt, name),) = self._deployment.rows(
            "select t.attempt, w.name from tasks t join workers w on w.id = t.worker_id where t.id = %s", task
        )
        number, _, host_name = name.partition("@")
        host = next(host for host in self._deployment.hosts if host.name == host_name)
        began = time.time()
        hurt(host, host.worker if number == "worker1" else self._second(host))
        ended = _wait_for(lambda: self._steps_after(task, attempt), "it goes on")[0]
        self._user.post(f"/v1/tasks/{task}/cancel", {})
        ours = "select 1 from tasks where status = 'cancelled' and id = %s"
        _wait_for(lambda: self._deployment.rows(ours, task), "it is cancelled")
        _wait_for(self._all_workers_live, "every worker is back")
        return float(ended - began)

    def double_workers(self) -> None:
        """A second worker process on each host."""
        for host in self._deployment.hosts:
            *command, _name = worker_command(SLOTS, host.name)
            log = self._deployment.scratch / f"worker2-{host.name}.log"
            part = Part(f"worker2-{host.name}", (*command, f"worker2@{host.name}"), host.worker._environment, log)
            self._second_workers.append(self._deployment.keeper.start(part))
        _wait_for(self._all_workers_live, "the second workers are there")

    def _second(self, host: Host) -> Part:
        return next(part for part in self._second_workers if part.name == f"worker2-{host.name}")

    def _steps_after(self, task: str, attempt: int) -> list[float]:
        """When each step that a later attempt recorded was recorded."""
        recorded = "select extract(epoch from created_at) from steps where task_id = %s and attempt > %s order by step"
        return [float(at) for (at,) in self._deployment.rows(recorded, task, attempt)]

    def _all_workers_live(self) -> bool:
        """Each by a row that is neither of a dead process nor about to be swept, with no task left."""
        live = "select name from workers where swept_at is null and alive_until > now() + interval '5 s'"
        names = [name for (name,) in self._deployment.rows(live)]
        return len(names) == len(set(names)) == len(self._deployment.hosts) + len(self._second_workers)


def _lose_host(host: Host, _worker: Part) -> None:
    host.worker.stay_down(2 * LEASE_TTL)
    host.lose()


def _kill_worker(_host: Host, worker: Part) -> None:
    worker.send(signal.SIGKILL)


def _import_worker() -> float:
    began = time.perf_counter()
    command = [sys.executable, "-P", "-c", "import workers.host, celery.bin.worker"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return time.perf_counter() - began


# ---- a departure ---------------------------------------------------------------------------------------------------


def _departure() -> list[Figure]:
    slots = str(TASKS)
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
        idle = [_seconds_to_exit(stage)]
        for number in range(TASKS):
            stage.client.submit(repo_url=stage.repo_url, prompt=f"go {number} [trajectory:steps]")
        stepping = "select 1 from steps having count(distinct task_id) >= %s"
        _wait_for(lambda: _rows(stage, stepping, TASKS), "all tasks make steps")
        began = time.time()
        busy = [_seconds_to_exit(stage)]
        ended = "select count(*) from tasks where status in ('completed', 'failed', 'cancelled') having count(*) >= %s"
        _wait_for(lambda: _rows(stage, ended, TASKS), "all tasks have ended")
        ((completed,),) = _rows(stage, "select count(*) from tasks where status = 'completed'")
        pauses = _rows(
            stage,
            "select extract(epoch from min(created_at)) - %s from steps where attempt > 1 group by task_id",
            began,
        )
        ((cut,),) = _rows(stage, "select count(*) from model_calls where state = 'lost'")
    waits = [float(seconds) for (seconds,) in pauses] or [math.inf]
    return [
        Figure("hand-over", f"TERM until a worker with {TASKS} tasks is gone", "one without tasks", "s", busy, idle,
               target="<= 10 s"),
        Figure("hand-over tasks", f"of {TASKS} tasks complete", f"all; {cut} model calls were cut", "",
               [float(completed)], [float(TASKS)], target=">= 1"),
        Figure("hand-over pause", "TERM until the next step of each task", "an answer of the model", "s", waits,
               [DELAY_S]),
    ]  # fmt: skip


def _seconds_to_exit(stage: Stage) -> float:
    """Of the worker, which is told to end; once another one is there in its place."""
    pid = stage.deployment.worker_pids()[0]
    before = _rows(stage, "select count(*) from workers")[0][0]
    began = time.monotonic()
    subprocess.run(["kill", "-TERM", str(pid)], check=True)
    _wait_for(lambda: not _runs(pid), "the worker is gone", every=0.01)
    took = time.monotonic() - began
    _wait_for(lambda: _rows(stage, "select count(*) from workers")[0][0] > before, "the next worker is there")
    return took


def _rows(stage: Stage, query: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(stage.settings.database_url, autocommit=True) as connection:
        return connection.execute(query.encode(), values or None).fetchall()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _wait_for(look: Callable[[], Any], what: str, every: float = LOOK_S) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(every)
    return found
