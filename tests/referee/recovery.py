"""How long it took until a task that was hit went on: from the fault, or from the end of one that lasts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from tests.referee.evidence import Evidence, TaskEvidence
from tests.referee.faults import Fault

STEPS = frozenset({"usage", "tool_result", "branch_pushed", "completed", "failed", "cancelled"})
"""Events by which a task shows that it goes on."""

LASTING_FROM_THE_START = ("worker paused", "host lost", "worker cut off from Postgres", "worker's Postgres silent")
"""Others can take over while they last, so the wait begins with them."""


def recovery_times(evidence: Evidence) -> dict[str, list[float]]:
    """By kind of fault: seconds until the next step of each task that it hit."""
    tasks = {task.id: task for task in evidence.tasks}
    found: dict[str, list[float]] = {}
    for fault in evidence.faults:
        times = [seconds for task in fault.hit if (seconds := _until_next_step(fault, tasks[task])) is not None]
        found.setdefault(fault.kind, []).extend(times)
    return found


def percentile(times: Sequence[float], part: float) -> float | None:
    """The nearest rank; None of nothing."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None


def _until_next_step(fault: Fault, task: TaskEvidence) -> float | None:
    since = fault.began if fault.kind in LASTING_FROM_THE_START else fault.ended
    return min((at - since for at in _steps(task.events) if at > since), default=None)


def _steps(events: Iterable[dict[str, object]]) -> list[float]:
    return [datetime.fromisoformat(str(event["at"])).timestamp() for event in events if event["type"] in STEPS]
