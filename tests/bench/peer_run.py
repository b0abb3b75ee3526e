"""Run by `tests.bench.peer` in the peer's own environment: `python peer_run.py IMAGE STEPS`.

Prints when each step was done, in seconds from before the container was started.
"""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import time
from typing import Any

LAST = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def main(image: str, steps: int) -> None:
    agents = importlib.import_module("minisweagent.agents.default")
    environments = importlib.import_module("minisweagent.environments.docker")
    models = importlib.import_module("minisweagent.models.test_models")
    logging.disable()
    said = [models.make_output("", [{"command": command}], cost=0.0) for command in [*["true"] * steps, LAST]]
    done: list[float] = []
    began = time.monotonic()
    environment = environments.DockerEnvironment(image=image, run_args=["--rm", "--network", "none"])
    try:
        execute = environment.execute

        def timed(*args: Any, **kwargs: Any) -> Any:
            result = execute(*args, **kwargs)
            done.append(time.monotonic() - began)
            return result

        environment.execute = timed
        model = models.DeterministicModel(outputs=said, cost_per_call=0.0)
        agent = agents.DefaultAgent(model, environment, system_template="You work.", instance_template="{{task}}")
        agent.run("go")
    finally:
        # Its own way to end one waits 10 s for `sleep` in the background, beside what is measured next.
        subprocess.run(["docker", "rm", "-f", environment.container_id], check=False, capture_output=True)
        environment.container_id = None
    sys.stdout.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
