"""Every task is in the one final state that is right for it (G1)."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence


def check(evidence: Evidence) -> Finding:
    """No task is lost, none is there twice, none is still open, and each has ended as its plan says."""
    finding = Finding()
    for sentence in evidence.not_over:
        finding.wrong(f"not over: {sentence}")
    if evidence.task_count != len(evidence.tasks):
        finding.wrong(f"{len(evidence.tasks)} tasks were accepted, and there are {evidence.task_count}")
    for task in evidence.tasks:
        status, error = task.rest["status"], task.rest["error"]
        if status != task.plan.right:
            finding.wrong(f"{task.plan.name} is {status} ({error}), and should be {task.plan.right}")
        elif status == "failed" and error["code"] not in task.plan.errors:
            finding.wrong(f"{task.plan.name} failed with {error['code']}, not with {sorted(task.plan.errors)}")
        for sentence in task.trouble:
            finding.wrong(f"{task.plan.name}: {sentence}")
        if task.retries:
            finding.counted["failures of the git host, retried by the user"] += task.retries
            _check_excused(evidence, finding)
    for sentence in evidence.complaints:
        finding.wrong(f"the api answered {sentence}")
    for sentence in evidence.ended_by_themselves:
        finding.wrong(sentence)
    for sentence in evidence.boundaries_missed:
        finding.wrong(f"the boundary was not hit: {sentence}")
    return finding


def _check_excused(evidence: Evidence, finding: Finding) -> None:
    if not any(fault.target == "git" or fault.kind.startswith(("host", "worker")) for fault in evidence.faults):
        finding.wrong("a task failed for its git host, which nobody had hurt")
