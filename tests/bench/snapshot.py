"""snapshot: what it costs to keep the work tree after each tool call, on a repository of 5,000 files.

A step that changes one file, from the last byte of the model's response until the next request, beside the same step on
20 files; and the bytes of that change that Postgres keeps, beside those of the whole tree.
"""

from __future__ import annotations

import itertools
import subprocess

import psycopg

from tests.bench.figures import Figure
from tests.bench.stage import Stage, running
from tests.standin.model_request import ModelRequest

FILES, FEW = 5000, 20
ROUNDS, STEPS = 3, 8
_COMMAND = {"command": "date +%N >> file7.py"}
CALL = {
    "content": [{"type": "tool_use", "name": "run_command", "input": _COMMAND}],
    "stop_reason": "tool_use",
}
END = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}


def run() -> list[Figure]:
    many_ms, many_bytes, whole = _measured(FILES)
    few_ms, _, _ = _measured(FEW)
    what = f"of a step that changes one file of {FILES:,}"
    return [
        Figure("snapshot", f"time {what}", f"the same of {FEW} files", "ms", many_ms, few_ms, target="<= 3"),
        Figure(
            "snapshot bytes", f"bytes kept {what}", "a pack of all files", "B", many_bytes, [whole], target="<= 0.05"
        ),
    ]


def _measured(files: int) -> tuple[list[float], list[float], float]:
    """Milliseconds and bytes of each step, and the bytes of a pack of the whole tree."""
    times: list[float] = []
    sizes: list[float] = []
    rounds = [f"round{number}" for number in range(ROUNDS)]
    with running({name: [CALL] * STEPS + [{**END, "gate": name}] for name in rounds}, files) as stage:
        for name in rounds:
            before = len(stage.model.requests)
            task = stage.client.submit(repo_url=stage.repo_url, prompt=f"go [trajectory:{name}]")
            stage.model.wait_for_held(name, timeout=120)
            sizes += _packs(stage, task["id"])  # a task that has ended keeps none
            times += _between(stage.model.requests[before:])
            stage.model.open_gate(name)
            list(stage.client.stream(task["id"]))
        return times, sizes, _whole(stage)


def _between(requests: list[ModelRequest]) -> list[float]:
    assert len(requests) == STEPS + 1
    return [(after.arrived_at - (done.finished_at or 0.0)) * 1000 for done, after in itertools.pairwise(requests)]


def _packs(stage: Stage, task_id: str) -> list[float]:
    with psycopg.connect(stage.settings.database_url) as connection:
        rows = connection.execute("select octet_length(pack) from trees where task_id = %s", (task_id,)).fetchall()
    assert len(rows) == STEPS
    return [float(size) for (size,) in rows]


def _whole(stage: Stage) -> float:
    """A pack of everything that the repository's head holds."""
    command = "git rev-list --objects HEAD | git pack-objects --stdout -q"
    packed = subprocess.run(command, shell=True, cwd=stage.repo, check=True, capture_output=True)
    return float(len(packed.stdout))
