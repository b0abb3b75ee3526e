"""Each step's response of the model is fetched once, save those that were in the air at a fault (G3)."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Ask, Evidence, TaskEvidence

AGAIN = "model responses fetched again, in the air at a fault"


def check(evidence: Evidence) -> Finding:
    finding = Finding()
    for sentence in evidence.strangers:
        finding.wrong(f"a request to the model that belongs to no task: {sentence}")
    for task in evidence.tasks:
        for step in sorted({ask.step for ask in task.asks} | task.steps.keys()):
            _check_step(evidence, task, step, finding)
    return finding


def _check_step(evidence: Evidence, task: TaskEvidence, step: int, finding: Finding) -> None:
    name = f"{task.plan.name}, step {step}"
    asks = [ask for ask in task.asks if ask.step == step]
    calls = [call for call in task.model_calls if call.step == step]
    settled = [call for call in calls if call.state == "settled"]
    _check_recorded(task.steps.get(step), asks, len(settled), name, finding)
    # One hold of money covers one request, so what was asked is counted, whoever died.
    if len(asks) > len(calls):
        finding.wrong(f"{name}: {len(asks)} requests to the model, and {len(calls)} holds of money")
    for call in calls:
        if call.state == "reserved":
            finding.wrong(f"{name}: a hold of money was never settled")
        elif call.state != "settled" and not task.plan.steps[step - 1].refused:
            finding.counted[AGAIN] += 1
            if not evidence.explained(call.started, call.ended):
                finding.wrong(f"{name}: a call to the model was lost, and nothing had happened")


def _check_recorded(recorded: float | None, asks: list[Ask], paid: int, name: str, finding: Finding) -> None:
    """`recorded`: when the step was, if it was; `paid`: how often its response was."""
    if recorded is None:
        if paid:
            finding.wrong(f"{name}: it was paid for, and is not recorded")
        return
    if not asks:
        finding.wrong(f"{name}: it is recorded, and nobody asked the model for it")
    if any(ask.at > recorded for ask in asks):
        finding.wrong(f"{name}: the model was asked again for a response that was recorded")
    if paid != 1:
        finding.wrong(f"{name}: it was paid for {paid} times")
