"""Tool calls: their effects are in the tree exactly once, save those in the air at a fault, which the model is told."""

from __future__ import annotations

from agent_runtime.conversation import INTERRUPTED
from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence, TaskEvidence, ToolCall

IN_THE_AIR = "tool calls in the air at a fault"


def check(evidence: Evidence) -> Finding:
    finding = Finding()
    for task in evidence.tasks:
        for call in task.tool_calls:
            _check_call(evidence, task, call, finding)
        if task.plan.pushes and task.head:
            _check_tree(task, finding)
    return finding


def _check_call(evidence: Evidence, task: TaskEvidence, call: ToolCall, finding: Finding) -> None:
    name = f"{task.plan.name}, call {call.step}.{call.index}"
    if call.output is None:
        if task.plan.right != "cancelled":
            finding.wrong(f"{name}: it was begun, and has no result")
    elif call.interrupted:
        finding.counted[IN_THE_AIR] += 1
        if not evidence.explained(call.at, call.ended):
            finding.wrong(f"{name}: it was interrupted, and nothing had happened")
        _check_told(task, call, name, finding)
    elif call.is_error:
        finding.wrong(f"{name}: it failed: {call.output[:200]}")


def _check_told(task: TaskEvidence, call: ToolCall, name: str, finding: Finding) -> None:
    """The next request to the model says so. A task that ended before it asked again is excused."""
    next_asks = [ask for ask in task.asks if ask.step == call.step + 1]
    if next_asks and not any(INTERRUPTED in ask.results.get(call.tool_use_id, "") for ask in next_asks):
        finding.wrong(f"{name}: it was interrupted, and the model was not told")


def _check_tree(task: TaskEvidence, finding: Finding) -> None:
    unsure = [(call.step, call.index) for call in task.tool_calls if call.interrupted]
    right = task.plan.results(unsure)
    if task.tree not in right:
        wanted = right[0]
        paths = [path for path in sorted(task.tree.keys() | wanted.keys()) if task.tree.get(path) != wanted.get(path)]
        shown = "; ".join(f"{path} is {task.tree.get(path)}, not {wanted.get(path)}" for path in paths[:3])
        finding.wrong(f"{task.plan.name}: its branch has the wrong tree: {shown}")
