"""What a run prints: what was done, what came of it, and the seed with which it can be done again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.referee.boundaries import Case
from tests.referee.checks import CHECKS, Finding
from tests.referee.evidence import Evidence
from tests.referee.recovery import percentile, recovery_times


@dataclass
class Report:
    """`seconds`: of the whole run."""

    seed: int
    sandbox: str
    lease_ttl: float
    evidence: Evidence
    cases: list[Case]
    seconds: float
    findings: dict[str, Finding] = field(default_factory=dict)

    def judge(self) -> Report:
        """Run every check."""
        self.findings = {name: check(self.evidence) for name, check in CHECKS.items()}
        return self

    @property
    def violations(self) -> list[str]:
        return [sentence for finding in self.findings.values() for sentence in finding.violations]

    @property
    def counted(self) -> Counter[str]:
        return sum((finding.counted for finding in self.findings.values()), Counter[str]())

    def as_json(self) -> dict[str, Any]:
        evidence, times = self.evidence, recovery_times(self.evidence)
        everything = [seconds for found in times.values() for seconds in found]
        return {
            "seed": self.seed,
            "sandbox": self.sandbox,
            "lease_ttl_s": self.lease_ttl,
            "seconds": round(self.seconds, 1),
            "tasks": len(evidence.tasks),
            "steps": sum(len(task.steps) for task in evidence.tasks),
            "tool_calls": sum(len(task.tool_calls) for task in evidence.tasks),
            "states": dict(Counter(task.rest["status"] for task in evidence.tasks)),
            "attempts": sum(task.rest["attempt"] for task in evidence.tasks),
            "faults": [self._kind(kind, times[kind]) for kind in sorted(times)],
            "recovery_s": _percentiles(everything),
            "boundaries": [{"name": case.label, "hit": case.hit} for case in self.cases],
            "counted": dict(self.counted),
            "checks": {name: finding.violations for name, finding in self.findings.items()},
            "violations": len(self.violations),
        }

    def as_text(self) -> str:
        told = self.as_json()
        states = ", ".join(f"{count} {state}" for state, count in sorted(told["states"].items()))
        hit = [case for case in self.cases if case.hit]
        lines = [
            f"{told['tasks']} tasks ({states}), {told['steps']} steps, {told['tool_calls']} tool calls",
            f"{told['attempts']} attempts; sandbox {self.sandbox}, lease {self.lease_ttl:g} s; {self.seconds:.0f} s",
            "",
            *_table(told["faults"], told["recovery_s"]),
            "",
            f"boundaries between two durable effects: {len(hit)} of {len(self.cases)} hit by name",
            *(f"  {case.label}" for case in self.cases),
            "",
            *(f"counted: {count} {what}" for what, count in sorted(told["counted"].items())),
            "",
        ]
        for name, violations in told["checks"].items():
            lines.append(f"{'ok  ' if not violations else 'FAIL'}  {name}")
            lines += [f"        {sentence}" for sentence in violations]
        lines += ["", f"violations: {told['violations']}   seed: {self.seed}"]
        return "\n".join(lines)

    def _kind(self, kind: str, times: list[float]) -> dict[str, Any]:
        faults = [fault for fault in self.evidence.faults if fault.kind == kind]
        by_id = {task.id: task for task in self.evidence.tasks}
        hit = [by_id[task] for fault in faults for task in fault.hit if task in by_id]
        right = sum(task.rest["status"] == task.plan.right for task in hit)
        return {
            "kind": kind,
            "times": len(faults),
            "tasks_hit": len(hit),
            "ended_right": right,
            "recovery_s": _percentiles(times),
        }


def _percentiles(times: list[float]) -> dict[str, float] | None:
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    return None if p50 is None or p99 is None else {"p50": round(p50, 1), "p99": round(p99, 1)}


def _table(kinds: list[dict[str, Any]], overall: dict[str, float] | None) -> list[str]:
    head = f"{'fault':38}{'times':>6}{'tasks hit':>11}{'ended right':>13}{'p50 s':>8}{'p99 s':>8}"
    lines = [head, "-" * len(head)]
    total = {
        "kind": "all",
        **{key: sum(kind[key] for kind in kinds) for key in ("times", "tasks_hit", "ended_right")},
        "recovery_s": overall,
    }
    for kind in (*kinds, total):
        recovery = kind["recovery_s"] or {}
        shown = "".join(f"{recovery.get(name, '-'):>8}" for name in ("p50", "p99"))
        lines.append(f"{kind['kind']:38}{kind['times']:>6}{kind['tasks_hit']:>11}{kind['ended_right']:>13}{shown}")
    return lines


def as_line(report: Report) -> str:
    return json.dumps(report.as_json())
