"""No task costs more than its budget, and every cent is accounted for (G9)."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence

A_HUNDREDTH_OF_A_CENT = 0.0001


def check(evidence: Evidence) -> Finding:
    finding = Finding()
    for task in evidence.tasks:
        name, spent, budget = task.plan.name, float(task.rest["spent_usd"]), float(task.rest["budget_usd"])
        if spent > budget:
            finding.wrong(f"{name}: it spent {spent}, of a budget of {budget}")
        if task.reserved_usd:
            finding.wrong(f"{name}: {task.reserved_usd} are still held for calls")
        paid = sum(call.cost_usd for call in task.model_calls if call.state in ("settled", "lost"))
        if abs(paid - spent) > A_HUNDREDTH_OF_A_CENT:
            finding.wrong(f"{name}: its calls cost {paid:.6f}, and it spent {spent:.6f}")
        told = [event["data"]["spent_usd"] for event in task.events if event["type"] == "usage"]
        if told != sorted(told) or (told and told[-1] > spent + A_HUNDREDTH_OF_A_CENT):
            finding.wrong(f"{name}: its events tell that it spent {told}, and it spent {spent}")
    return finding
