"""dispatch: from the 202 until the first model call arrives upstream, with the repo's mirror fresh; cold sandboxes.

The floor is `docker run` of `true` in the same image, without network, as a user would type it.
"""

from __future__ import annotations

import subprocess
import time

from infra.settings import Settings
from tests.bench.figures import Figure
from tests.bench.stage import running

ROUNDS = 9
END = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}


def run() -> list[Figure]:
    ours: list[float] = []
    floor: list[float] = []
    with running({"end": [END]}, FARHAND_WARM_SANDBOXES="0") as stage:
        for number in range(ROUNDS + 1):
            before = len(stage.model.requests)
            task = stage.client.submit(repo_url=stage.repo_url, prompt="say done [trajectory:end]")
            accepted = time.monotonic()
            request = stage.model.wait_for_requests(before + 1, timeout=60)[before]
            list(stage.client.stream(task["id"]))
            if number:  # the first task clones the mirror
                ours.append((request.arrived_at - accepted) * 1000)
                floor.append(docker_run(stage.settings) * 1000)
    what = "202 until the first model call arrives"
    return [Figure("dispatch", what, "docker run --network none IMAGE true", "ms", ours, floor, target="<= 2.0")]


def docker_run(settings: Settings) -> float:
    began = time.perf_counter()
    command = ["docker", "run", "--rm", "--network", "none", settings.agent_image, "true"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began
