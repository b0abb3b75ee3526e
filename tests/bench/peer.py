"""peer: beside what one would pick instead, the Docker environment of `mini-swe-agent`. Part of `sandbox`.

Both play the same trajectory in containers of the same image: STEPS times `true`, then the end. The peer comes from
the package index, at the version below, into an environment of its own that is thrown away; where that cannot be had,
there is no figure. What the peer is spared: the repository (ours brings it and records what each step changed), the
model over HTTP (it plays its own deterministic one), its imports, and records that outlive it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from tests.bench.figures import Figure
from tests.bench.stage import Stage, running, wait_for_pool
from tests.bench.step import CALL, END

PEER = "mini-swe-agent==2.4.6"
USED_BY_IT = ("jinja2", "platformdirs", "pydantic", "python-dotenv", "rich")
"""Of its dependencies those that this trajectory imports: the others are clients of models, and data sets."""

ROUNDS, STEPS = 5, 10
INSTALL_S, RUN_S = 180, 120


class Unavailable(Exception):  # noqa: N818 - it reads as what it is
    """The peer can't be had. The message says why."""


def run() -> list[Figure]:
    directory = Path(tempfile.mkdtemp(prefix="fhb-"))
    try:
        return _beside(_install(directory))
    except Unavailable as reason:
        click.echo(f"farhand bench: no figure beside mini-swe-agent: {reason}", err=True)
        return []
    finally:
        shutil.rmtree(directory)


def _beside(python: Path) -> list[Figure]:
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    with running({"steps": [CALL] * STEPS + [END]}, FARHAND_WARM_SANDBOXES="1") as stage:
        for number in range(ROUNDS + 1):
            wait_for_pool(stage.settings, 1)
            mine, its = _ours(stage), _theirs(python, stage.settings.agent_image)
            if number:  # the first task clones the mirror, the peer's first run compiles its modules
                ours.append(mine)
                theirs.append(its)
    return figures(ours, theirs)


def figures(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[Figure]:
    """Of when the steps of each run were done, in seconds from its start."""
    name, peer = "peer", f"{PEER}, DockerEnvironment"
    first, rate = "start until the first step is done", f"steps a second, of {STEPS} times `true`"
    return [
        Figure(name, first, peer, "ms", [run[0] * 1000 for run in ours], [run[0] * 1000 for run in theirs]),
        Figure(name, rate, peer, "1/s", [_rate(run) for run in ours], [_rate(run) for run in theirs]),
    ]


def _rate(done: Sequence[float]) -> float:
    """Steps a second, after the first."""
    return 1 / statistics.mean(after - before for before, after in itertools.pairwise(done))


def _ours(stage: Stage) -> list[float]:
    """From the POST; a step is done when its result has come to the model, and is recorded."""
    before = len(stage.model.requests)
    began = time.monotonic()
    task = stage.client.submit(repo_url=stage.repo_url, prompt="go [trajectory:steps]")
    list(stage.client.stream(task["id"]))
    _first, *results = stage.model.requests[before:]
    return _whole([request.arrived_at - began for request in results])


def _theirs(python: Path, image: str) -> list[float]:
    """From before its container is started; a step is done when its output is there."""
    command = [str(python), "-P", str(Path(__file__).with_name("peer_run.py")), image, str(STEPS)]
    settings = {"MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": str(python.parents[1] / "settings")}
    done = _run(command, RUN_S, {**os.environ, **settings})
    if done.returncode:
        raise Unavailable(f"it does not run: {done.stderr[-300:]}")
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return _whole(times)


def _run(
    command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, env=environment)


def _whole(times: list[float]) -> list[float]:
    if len(times) != STEPS:
        raise AssertionError(f"{len(times)} steps of {STEPS}")
    return times


def _install(directory: Path) -> Path:
    """The interpreter of an environment that has the peer. Raises Unavailable."""
    python = directory / "bin" / "python"
    uv = (sys.executable, "-m", "uv")
    install = (*uv, "pip", "install", "--quiet", "--python", str(python))
    commands: tuple[tuple[str, ...], ...] = (
        (*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(directory)),
        (*install, "--no-deps", PEER),
        (*install, *USED_BY_IT),
    )
    for command in commands:
        try:
            done = _run(command, INSTALL_S)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the package index did not answer within {INSTALL_S} s") from None
        if done.returncode:
            raise Unavailable(f"it can't be installed: {done.stderr[-300:]}")
    return python
