"""Events: `seq` has no holes, and a subscriber that kept reconnecting saw each event once and in order (G4)."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence, TaskEvidence


def check(evidence: Evidence) -> Finding:
    finding = Finding()
    for task in evidence.tasks:
        name = task.plan.name
        recorded = [event["seq"] for event in task.events]
        if recorded != list(range(1, task.rest["last_seq"] + 1)):
            finding.wrong(f"{name}: the recorded events are {_shown(recorded)}, of {task.rest['last_seq']}")
        seen = [event["seq"] for event in task.seen]
        if seen != list(range(1, task.rest["last_seq"] + 1)):
            finding.wrong(f"{name}: its subscriber saw {_shown(seen)}, of {task.rest['last_seq']}")
        elif task.seen != task.events:
            different = next(a["seq"] for a, b in zip(task.seen, task.events, strict=False) if a != b)
            finding.wrong(f"{name}: its subscriber saw another event {different} than is recorded")
        _check_order(task, finding)
    return finding


def _check_order(task: TaskEvidence, finding: Finding) -> None:
    """What is recorded once, is told once: steps, calls and their results."""
    steps = [event["data"]["step"] for event in task.events if event["type"] == "usage"]
    if steps != list(range(1, len(steps) + 1)):
        finding.wrong(f"{task.plan.name}: its steps are {steps}")
    for kind in ("tool_call", "tool_result"):
        calls = [event["data"]["call_id"] for event in task.events if event["type"] == kind]
        if len(calls) != len(set(calls)):
            finding.wrong(f"{task.plan.name}: a {kind} is told twice: {calls}")


def _shown(numbers: list[int]) -> str:
    """The first place where they go wrong."""
    for place, number in enumerate(numbers, start=1):
        if number != place:
            return f"{number} in place of {place}"
    return f"1 to {len(numbers)}"
