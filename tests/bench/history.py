"""history: a repository with much history, on a host that has seen it before. Part of `sandbox`.

The repository is made for this run: 10,000 commits, 100 MB that do not compress, of which the newest tree has 2 MB. Its
first task brings it to the host, and is not counted. Ours is from the 202 until the first model call, less what git
takes here to check the same tree out; the floor is `git clone --no-checkout`, so a clone beyond its checkout too.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.dispatch import END
from tests.bench.figures import Figure
from tests.bench.stage import CREDENTIALS, Stage, running, wait_for_pool

ROUNDS = 5
COMMITS, FILE_BYTES, FILES = 10_000, 10_240, 200
NAME = "history"
FIRST_CLONE_S = 300.0


@dataclass
class Times:
    """Milliseconds of each round."""

    whole: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)
    clone: list[float] = field(default_factory=list)
    clone_whole: list[float] = field(default_factory=list)


def run() -> list[Figure]:
    times = Times()
    with running({"end": [END]}, FARHAND_WARM_SANDBOXES="1") as stage:
        url = _create(stage)
        _dispatch(stage, url)
        for _ in range(ROUNDS):
            wait_for_pool(stage.settings, 1)
            whole = _dispatch(stage, url)
            clone, checkout = _clone(url)
            times.whole.append(whole)
            times.beyond.append(whole - checkout)
            times.clone.append(clone)
            times.clone_whole.append(clone + checkout)
    what = f"{COMMITS * FILE_BYTES / 1e6:.0f} MB of history, known here: 202 until the first model call"
    beyond, floor = f"{what}, beyond the checkout", "git clone --no-checkout of the same repository"
    return [
        Figure("sandbox history", beyond, floor, "ms", times.beyond, times.clone, target="<= 0.2"),
        Figure("sandbox history whole", what, "git clone, with its checkout", "ms", times.whole, times.clone_whole),
    ]


def _create(stage: Stage) -> str:
    """The repository's address; the user of the stage has a project of it."""
    path = stage.git_host.create(NAME)
    command = ["git", f"--git-dir={path}", "fast-import", "--quiet", "--depth=0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as importer:
        assert importer.stdin is not None
        content = random.Random(1)
        for number in range(COMMITS):
            importer.stdin.write(_commit(number, content.randbytes(FILE_BYTES)))
    if importer.returncode:
        raise AssertionError(f"git fast-import ended with {importer.returncode}")
    url = stage.git_host.url(NAME)
    stage.client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
    return url


def _commit(number: int, content: bytes) -> bytes:
    """For `git fast-import`: the next commit, which replaces one file."""
    file = number % FILES
    head = (
        "commit refs/heads/main\n"
        f"committer Bench <bench@example.org> {1_700_000_000 + number} +0000\n"
        "data 0\n"
        f"M 100644 inline part{file % 20}/file{file}\n"
        f"data {len(content)}\n"
    )
    return head.encode() + content + b"\n"


def _dispatch(stage: Stage, url: str) -> float:
    """One task; milliseconds from the 202 until its first model call."""
    before = len(stage.model.requests)
    task = stage.client.submit(repo_url=url, prompt="say done [trajectory:end]")
    accepted = time.monotonic()
    request = stage.model.wait_for_requests(before + 1, timeout=FIRST_CLONE_S)[before]
    list(stage.client.stream(task["id"]))
    return (request.arrived_at - accepted) * 1000


def _clone(url: str) -> tuple[float, float]:
    """Milliseconds of a clone without its checkout, and of the checkout."""
    scheme, _, rest = url.partition("://")
    target = Path(tempfile.mkdtemp(prefix="fhb-"))
    try:
        clone = _git("clone", "--quiet", "--no-checkout", f"{scheme}://{':'.join(CREDENTIALS)}@{rest}", str(target))
        return clone, _git("-C", str(target), "reset", "--hard", "--quiet")
    finally:
        shutil.rmtree(target)


def _git(*arguments: str) -> float:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    began = time.perf_counter()
    subprocess.run(["git", *arguments], check=True, capture_output=True, env=environment)
    return (time.perf_counter() - began) * 1000
