"""step: from the last byte of a model response until the next request, for a call of `run_command true`.

In between the response is recorded, the call is recorded, the command runs, the work tree is looked over, and the
result is recorded: four commits. The floor is one `docker exec` of `true` in a running container of the same image.
Both are measured in turns, for whatever else the machine is doing comes and goes.
"""

from __future__ import annotations

import itertools
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.figures import Figure
from tests.bench.stage import Stage, running

ROUNDS, STEPS = 5, 10
CALL = {
    "content": [{"type": "tool_use", "name": "run_command", "input": {"command": "true"}}],
    "stop_reason": "tool_use",
}
END = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}


def run(target: str = "<= 0.5") -> list[Figure]:
    ours: list[float] = []
    floor: list[float] = []
    with running({"steps": [CALL] * STEPS + [END]}) as stage, _container(stage.settings.agent_image) as container:
        for _ in range(ROUNDS):
            ours += _steps(stage)
            floor += [_docker_exec(container) for _ in range(STEPS)]
    what = "last byte of a response until the next request, run_command true"
    return [Figure("step", what, "docker exec CONTAINER true", "ms", ours, floor, target=target)]


def _steps(stage: Stage) -> list[float]:
    """One task; milliseconds of each of its steps."""
    before = len(stage.model.requests)
    task = stage.client.submit(repo_url=stage.repo_url, prompt="go [trajectory:steps]")
    list(stage.client.stream(task["id"]))
    requests = stage.model.requests[before:]
    assert len(requests) == STEPS + 1
    return [(after.arrived_at - (done.finished_at or 0.0)) * 1000 for done, after in itertools.pairwise(requests)]


@contextmanager
def _container(image: str) -> Iterator[str]:
    name = f"farhand-bench-{uuid.uuid4().hex[:8]}"
    start = ["docker", "run", "-d", "--rm", "--network", "none", "--name", name, image, "sleep", "600"]
    subprocess.run(start, check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["docker", "kill", name], check=False, capture_output=True)


def _docker_exec(container: str) -> float:
    began = time.perf_counter()
    subprocess.run(["docker", "exec", container, "true"], check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000
