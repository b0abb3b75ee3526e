"""What must be true after a run. Each check looks at the evidence alone, and there is a forged one that it reports."""

from __future__ import annotations

from collections.abc import Callable

from tests.referee.checks import leftovers, model_requests, money, publication, sequence, side_effects, states
from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence

CHECKS: dict[str, Callable[[Evidence], Finding]] = {
    "every task in its right final state": states.check,
    "events without holes, each seen once and in order": sequence.check,
    "each model response fetched once": model_requests.check,
    "effects of tool calls exactly once": side_effects.check,
    "one branch with the right tree, one pull request": publication.check,
    "budgets kept": money.check,
    "nothing left over": leftovers.check,
}

__all__ = ["CHECKS", "Finding"]
