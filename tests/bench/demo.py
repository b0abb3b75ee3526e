"""demo: `farhand demo` from a warm install, whole, against a Python that imports what its services import."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from infra.cli import launch
from tests.bench.figures import Figure

ROUNDS = 5


def run() -> list[Figure]:
    demo = [sys.executable, "-P", "-m", "infra.cli", "demo"]
    imports = [sys.executable, "-P", "-c", "import api.app, workers.host"]
    ours = [_seconds(demo) for _ in range(ROUNDS)]
    floor = [_seconds(imports) for _ in range(ROUNDS)]
    return [figure(ours, floor)]


def figure(ours: list[float], floor: list[float]) -> Figure:
    """Of seconds."""
    return Figure("demo", "farhand demo", "importing the API and the worker", "s", ours, floor, target="<= 15 s")


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    environment = launch.service_environment(os.environ)
    subprocess.run(command, check=True, capture_output=True, env=environment, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began
