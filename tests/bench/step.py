"""step: from the last byte of a model response until the next request, for a call of `run_command true`.

In between the response is recorded, the call is recorded, the command runs, the work tree is looked over, and the
result is recorded: four commits. The floor is one `docker exec` of `true` in a running container of the same image.
"""

from __future__ import annotations

import itertools
import subprocess
import time
import uuid

from tests.bench.figures import Figure
from tests.bench.stage import running

STEPS = 40
CALL = {
    "content": [{"type": "tool_use", "name": "run_command", "input": {"command": "true"}}],
    "stop_reason": "tool_use",
}
END = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}


def run(target: str = "<= 0.5") -> list[Figure]:
    with running({"steps": [CALL] * STEPS + [END]}) as stage:
        task = stage.client.submit(repo_url=stage.repo_url, prompt="go [trajectory:steps]")
        list(stage.client.stream(task["id"]))
        requests = stage.model.requests
        assert len(requests) == STEPS + 1
        gaps = [
            (after.arrived_at - (before.finished_at or 0.0)) * 1000 for before, after in itertools.pairwise(requests)
        ]
        floor = _docker_execs(stage.settings.agent_image, STEPS)
    what = "last byte of a response until the next request, run_command true"
    return [Figure("step", what, "docker exec CONTAINER true", "ms", gaps, floor, target=target)]


def _docker_execs(image: str, count: int) -> list[float]:
    name = f"farhand-bench-{uuid.uuid4().hex[:8]}"
    start = ["docker", "run", "-d", "--rm", "--network", "none", "--name", name, image, "sleep", "600"]
    subprocess.run(start, check=True, capture_output=True)
    try:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            subprocess.run(["docker", "exec", name, "true"], check=True, capture_output=True)
            times.append((time.perf_counter() - began) * 1000)
        return times
    finally:
        subprocess.run(["docker", "kill", name], check=False, capture_output=True)
