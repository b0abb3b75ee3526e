"""Nothing is left over: no container, process, file, lock, hold or half-done row."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence


def check(evidence: Evidence) -> Finding:
    finding = Finding()
    for sentence in evidence.leftovers:
        finding.wrong(f"left over: {sentence}")
    for task in evidence.tasks:
        if task.open_attempts:
            finding.wrong(f"left over: {task.open_attempts} attempts of {task.plan.name} never ended")
        if task.plan.pushes and task.kept_trees:
            finding.wrong(f"left over: {task.kept_trees} work trees of {task.plan.name}, which are pushed")
    return finding
