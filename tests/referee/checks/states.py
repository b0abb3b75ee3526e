"""Every task is in the one final state that is right for it (G1)."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence, TaskEvidence
from tests.referee.faults import Fault


def check(evidence: Evidence) -> Finding:
    """No task is lost, none is there twice, none is still open, and each has ended as its plan says."""
    finding = Finding()
    if evidence.task_count != len(evidence.tasks):
        finding.wrong(f"{len(evidence.tasks)} tasks were accepted, and there are {evidence.task_count}")
    for task in evidence.tasks:
        _check_end(task, finding)
    retries = sum(task.retries for task in evidence.tasks)
    if retries:
        finding.counted["failures of the git host, retried by the user"] = retries
        if not any(_can_break_git(fault) for fault in evidence.faults):
            finding.wrong("a task failed for its git host, which nobody had hurt")
    for prefix, sentences in (
        ("not over: ", evidence.not_over),
        ("the api answered ", evidence.complaints),
        ("", evidence.ended_by_themselves),
        ("the boundary was not hit: ", evidence.boundaries_missed),
    ):
        for sentence in sentences:
            finding.wrong(prefix + sentence)
    return finding


def _check_end(task: TaskEvidence, finding: Finding) -> None:
    status, error = task.rest["status"], task.rest["error"]
    if status != task.plan.right:
        finding.wrong(f"{task.plan.name} is {status} ({error}), and should be {task.plan.right}")
    elif status == "failed" and error["code"] not in task.plan.errors:
        finding.wrong(f"{task.plan.name} failed with {error['code']}, not with {sorted(task.plan.errors)}")
    for sentence in task.trouble:
        finding.wrong(f"{task.plan.name}: {sentence}")


def _can_break_git(fault: Fault) -> bool:
    return fault.target == "git" or fault.kind.startswith(("host", "worker"))
