"""sandbox: from the 202 until the first model call, warm and cold; a step; and many tasks at a time.

The mirror is fresh in all of them. A warm start is shown without what git takes in the worker (it asks the remote for
news, however fresh the mirror is), which is a figure of its own beside `git ls-remote` of the same repository, and
whole. The checkout inside the sandbox is part of all. The floor is `docker run` of `true` in the same image.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass, field

from tests.bench import density, history, peer, step
from tests.bench.dispatch import END, docker_run
from tests.bench.figures import Figure
from tests.bench.stage import CREDENTIALS, Stage, running, wait_for_pool

ROUNDS = 15


@dataclass
class Starts:
    """Milliseconds of each start, of git's part in it, and of their floors, taken in turns."""

    whole: list[float] = field(default_factory=list)
    git: list[float] = field(default_factory=list)
    docker: list[float] = field(default_factory=list)
    ls_remote: list[float] = field(default_factory=list)


def run(tasks: int = density.TASKS) -> list[Figure]:
    return [*_warm(), *_cold(), *step.run(target="<= 0.3"), *history.run(), *peer.run(), *density.run(tasks)]


def _warm() -> list[Figure]:
    starts = _starts("1")
    rest = [whole - git for whole, git in zip(starts.whole, starts.git, strict=True)]
    docker, ls_remote = "docker run --network none IMAGE true", "git ls-remote of the same repository"
    what = "202 until the first model call, warm"
    return [
        Figure("sandbox warm", f"{what}, git apart", docker, "ms", rest, starts.docker, target="<= 0.25"),
        Figure("sandbox warm git", "git in the worker, of a warm start", ls_remote, "ms", starts.git, starts.ls_remote),
        Figure("sandbox warm whole", f"{what}, git included", docker, "ms", starts.whole, starts.docker),
    ]


def _cold() -> list[Figure]:
    starts = _starts("0")
    what, floor = "202 until the first model call, cold", "docker run --network none IMAGE true"
    return [Figure("sandbox cold", what, floor, "ms", starts.whole, starts.docker, target="<= 1.5")]


def _starts(warm: str) -> Starts:
    starts = Starts()
    with running({"end": [END]}, FARHAND_WARM_SANDBOXES=warm) as stage:
        for number in range(ROUNDS + 1):
            wait_for_pool(stage.settings, int(warm))
            before = len(stage.model.requests)
            task = stage.client.submit(repo_url=stage.repo_url, prompt="say done [trajectory:end]")
            accepted = time.monotonic()
            request = stage.model.wait_for_requests(before + 1, timeout=60)[before]
            list(stage.client.stream(task["id"]))
            if number:  # the first task clones the mirror
                starts.whole.append((request.arrived_at - accepted) * 1000)
                starts.docker.append(docker_run(stage.settings) * 1000)
                starts.ls_remote.append(_ls_remote(stage.repo_url) * 1000)
        starts.git = _git_times(stage)[1:]
    assert len(starts.git) == len(starts.whole)
    return starts


def _ls_remote(url: str) -> float:
    began = time.perf_counter()
    scheme, _, rest = url.partition("://")
    address = f"{scheme}://{CREDENTIALS[0]}:{CREDENTIALS[1]}@{rest}"
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run(["git", "ls-remote", address], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def _git_times(stage: Stage) -> list[float]:
    """What the worker says about each hand-over, in milliseconds."""
    return [float(found) for found in re.findall(r"git took ([\d.]+) ms", stage.deployment.all_logs())]
