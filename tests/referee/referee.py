"""One run from its start to its report."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.referee import left_behind
from tests.referee.boundaries import BoundaryPhase, make_cases
from tests.referee.deployment import Deployment, deployed
from tests.referee.evidence import collect
from tests.referee.plans import make_plans
from tests.referee.report import Report
from tests.referee.run import Run
from tests.referee.schedule import Schedule
from tests.referee.user import User

WARM = 1
REPO = "owner/sample"
RESENT_S = 35.0
"""A lost wake-up is sent again after half a minute: so long what a fault began may show."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What to do. `both`: each boundary in all its variants, else in one of them. `logs`: where to copy logs to."""

    tasks: int
    faults: int
    seed: int
    sandbox: str = "docker"
    lease_ttl: float = 10.0
    both: bool = True
    logs: Path | None = None


def referee(orders: Orders, say: Callable[[str], None]) -> Report:
    """Start a deployment, break it as ordered, and judge what is left. Ends by itself; leaves nothing behind."""
    began, stop = time.monotonic(), threading.Event()
    cases = make_cases(both=orders.both, seed=orders.seed)
    plans = make_plans(orders.seed, orders.tasks, REPO)
    trajectories = {plan.name: plan.trajectory() for plan in (*plans, *(case.plan for case in cases))}
    say(f"starting three worker hosts, sandbox {orders.sandbox}")
    with deployed(trajectories, sandbox=orders.sandbox, lease_ttl=orders.lease_ttl, warm=WARM) as deployment:
        user = User(deployment.api_url, deployment.token)
        run = Run(deployment, user, say)
        try:
            run.open_repo(REPO)
            boundaries = BoundaryPhase(run, cases)
            boundaries.carry_out(stop)
            say("waiting until every host has a worker again")
            run.wait_for_workers(boundaries.struck_at, stop)
            Schedule(run, orders.seed, orders.faults, plans).carry_out(stop)
            run.wait_until_over(stop)
            evidence = collect(run, grace_s=orders.lease_ttl + RESENT_S)
            evidence.boundaries_missed = [case.label for case in cases if not case.hit]
            evidence.leftovers = _leftovers(deployment, say)
        finally:
            _keep_logs(deployment, orders.logs)
            stop.set()
            for task in run.tasks:
                if task.subscriber:
                    task.subscriber.stop()
            user.close()
    return Report(orders.seed, orders.sandbox, orders.lease_ttl, evidence, cases, time.monotonic() - began).judge()


def choose_sandbox() -> str:
    """docker where an engine answers and has the image."""
    try:
        image = ["docker", "image", "inspect", "farhand-agent:1"]
        subprocess.run(image, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "local"
    return "docker"


def _keep_logs(deployment: Deployment, target: Path | None) -> None:
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        for log in deployment.scratch.glob("*.log"):
            shutil.copy(log, target / log.name)


def _leftovers(deployment: Deployment, say: Callable[[str], None]) -> list[str]:
    say("looking for what is left over while everything runs")
    found = left_behind.while_running(deployment, WARM)
    say("stopping everything, and looking for what is left then")
    deployment.stop_services()
    return found + left_behind.after_the_stop(deployment)
