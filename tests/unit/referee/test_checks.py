"""The referee itself: each check reports a forged violation of what it is for, and nothing where all is well."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from agent_runtime.conversation import INTERRUPTED
from tests.referee.checks import CHECKS
from tests.referee.evidence import Ask, Evidence, ModelCall, TaskEvidence, ToolCall
from tests.referee.faults import Fault
from tests.referee.plans import COUNTER, Call, Plan, Step
from tests.referee.recovery import percentile, recovery_times

SHA, BASE_SHA = "a" * 40, "b" * 40
PLAN = Plan("t0", ((Step(calls=(Call("append", COUNTER, "one"), Call("append", COUNTER, "two"))), Step()),), "o/r")


def event(seq: int, type_: str, **data: object) -> dict[str, object]:
    return {"seq": seq, "type": type_, "data": data, "at": f"1970-01-01T00:01:{seq:02d}Z"}


def good() -> Evidence:
    """A task of two steps that a fault hit at second 100, and that came out right."""
    events = [
        event(1, "task_created"),
        event(2, "usage", step=1, spent_usd=0.5),
        event(3, "tool_call", call_id="1.0"),
        event(4, "tool_call", call_id="1.1"),
        event(5, "tool_result", call_id="1.0"),
        event(6, "tool_result", call_id="1.1"),
        event(7, "usage", step=2, spent_usd=1.0),
        event(8, "branch_pushed", sha=SHA),
        event(9, "pull_request", number=1),
        event(10, "completed"),
    ]
    task = TaskEvidence(
        plan=PLAN,
        id="7",
        rest={
            "status": "completed",
            "error": None,
            "last_seq": 10,
            "spent_usd": 1.0,
            "budget_usd": 20.0,
            "head_sha": SHA,
            "pull_request": {"number": 1},
        },
        events=events,
        seen=copy.deepcopy(events),
        asks=[Ask(90.0, 1), Ask(105.0, 2)],
        steps={1: 91.0, 2: 106.0},
        model_calls=[ModelCall(1, "settled", 90.0, 91.0, 0.5), ModelCall(2, "settled", 105.0, 106.0, 0.5)],
        tool_calls=[
            ToolCall(1, 0, "use0", "[exit code 0]", False, 95.0, 96.0),
            ToolCall(1, 1, "use1", "[exit code 0]", False, 96.0, 97.0),
        ],
        head=SHA,
        commits=1,
        tree=PLAN.results([])[0],
        pulls=[{"number": 1}],
    )
    return Evidence(
        tasks=[task],
        faults=[Fault("worker killed", "north", 100.0, 100.0, hit=["7"])],
        grace_s=10.0,
        branches={"o/r": {"main": BASE_SHA, "farhand/7": SHA}},
        bases={"o/r": BASE_SHA},
        task_count=1,
    )


def violations(evidence: Evidence) -> dict[str, list[str]]:
    return {name: found for name, check in CHECKS.items() if (found := check(evidence).violations)}


def test_nothing_is_said_where_all_is_well() -> None:
    assert violations(good()) == {}


def interrupted(evidence: Evidence, *, told: bool = True, at: float = 100.0) -> None:
    task = evidence.tasks[0]
    task.tool_calls[1] = ToolCall(1, 1, "use1", INTERRUPTED, True, at, at)
    task.asks[1].results = {"use1": INTERRUPTED} if told else {"use1": "fine"}


def asked_again(evidence: Evidence, at: float) -> None:
    """Step 2 a second time; its first call was lost."""
    task = evidence.tasks[0]
    task.asks.append(Ask(at, 2))
    task.model_calls.append(ModelCall(2, "lost", at - 1, at, 0.0))


@pytest.mark.parametrize("applied", [True, False])
def test_what_was_in_the_air_at_a_fault_is_counted_and_no_violation(applied: bool) -> None:
    evidence = good()
    interrupted(evidence)
    asked_again(evidence, 104.0)
    evidence.tasks[0].tree = PLAN.results([(1, 1)])[int(applied)]
    assert violations(evidence) == {}
    counted = [check(evidence).counted for check in CHECKS.values()]
    assert sum(sum(one.values()) for one in counted) == 2


STATES, SEQUENCE, MODEL, EFFECTS, PUBLICATION, MONEY, LEFTOVERS = CHECKS
Forge = Callable[[Evidence], object]


def both(first: Forge, second: Forge) -> Forge:
    def forge(evidence: Evidence) -> None:
        first(evidence)
        second(evidence)

    return forge


def task_of(evidence: Evidence) -> TaskEvidence:
    return evidence.tasks[0]


FORGED: dict[str, tuple[str, Forge]] = {
    "a task is in another state": (STATES, lambda e: task_of(e).rest.update(status="failed", error={"code": "x"})),
    "a task is there twice": (STATES, lambda e: setattr(e, "task_count", 2)),
    "a task is not over": (STATES, lambda e: e.not_over.append("t0 is running")),
    "a user got no answer": (STATES, lambda e: task_of(e).trouble.append("no answer")),
    "the api broke": (STATES, lambda e: e.complaints.append("500")),
    "a worker ended by itself": (STATES, lambda e: e.ended_by_themselves.append("worker ended by itself")),
    "a boundary was missed": (STATES, lambda e: e.boundaries_missed.append("claimed, kept")),
    "a failure of the git host without a fault": (
        STATES,
        both(lambda e: e.faults.clear(), lambda e: setattr(task_of(e), "retries", 1)),
    ),
    "a hole in seq": (SEQUENCE, lambda e: task_of(e).events.pop(3)),
    "an event seen twice": (SEQUENCE, lambda e: task_of(e).seen.insert(4, task_of(e).seen[3])),
    "an event never seen": (SEQUENCE, lambda e: task_of(e).seen.pop()),
    "events seen out of order": (SEQUENCE, lambda e: task_of(e).seen.reverse()),
    "another event seen": (SEQUENCE, lambda e: task_of(e).seen[2].update(type="error")),
    "a call told twice": (SEQUENCE, lambda e: task_of(e).events[3]["data"].update(call_id="1.0")),
    "a step told twice": (SEQUENCE, lambda e: task_of(e).events[6]["data"].update(step=1)),
    "a recorded step asked again": (MODEL, lambda e: asked_again(e, 107.0)),
    "a request without a hold": (MODEL, lambda e: task_of(e).asks.append(Ask(90.5, 1))),
    "a call lost for nothing": (MODEL, both(lambda e: e.faults.clear(), lambda e: asked_again(e, 104.0))),
    "a step paid for twice": (
        MODEL,
        lambda e: task_of(e).model_calls.append(ModelCall(2, "settled", 105.0, 106.0, 0.0)),
    ),
    "a step nobody asked for": (MODEL, lambda e: task_of(e).asks.pop()),
    "a request of no task": (MODEL, lambda e: e.strangers.append("other: 200")),
    "an effect that is there twice": (EFFECTS, lambda e: task_of(e).tree.update(counter=("100644", "one\none\ntwo\n"))),
    "an effect that is missing": (EFFECTS, lambda e: task_of(e).tree.update(counter=("100644", "one\n"))),
    "a mode that is lost": (EFFECTS, lambda e: task_of(e).tree.update({"README.md": ("100755", "a sample\n")})),
    "an interrupted call that happened twice": (
        EFFECTS,
        both(interrupted, lambda e: task_of(e).tree.update(counter=("100644", "one\ntwo\ntwo\n"))),
    ),
    "an interrupted call that was not told": (EFFECTS, lambda e: interrupted(e, told=False)),
    "a call interrupted by nothing": (EFFECTS, lambda e: interrupted(e, at=50.0)),
    "a call without a result": (EFFECTS, lambda e: setattr(task_of(e).tool_calls[0], "output", None)),
    "a call that failed": (EFFECTS, lambda e: setattr(task_of(e).tool_calls[0], "is_error", True)),
    "an extra branch": (PUBLICATION, lambda e: e.branches["o/r"].update(stray=SHA)),
    "a moved main": (PUBLICATION, lambda e: e.branches["o/r"].update(main=SHA)),
    "a branch that is missing": (PUBLICATION, lambda e: setattr(task_of(e), "head", None)),
    "a commit too many": (PUBLICATION, lambda e: setattr(task_of(e), "commits", 2)),
    "a second pull request": (PUBLICATION, lambda e: task_of(e).pulls.append({"number": 2})),
    "no pull request": (PUBLICATION, lambda e: task_of(e).pulls.clear()),
    "more spent than the budget": (MONEY, lambda e: task_of(e).rest.update(budget_usd=0.9)),
    "money that is not accounted for": (MONEY, lambda e: task_of(e).rest.update(spent_usd=1.5)),
    "money still held": (MONEY, lambda e: setattr(task_of(e), "reserved_usd", 0.1)),
    "a leftover container": (LEFTOVERS, lambda e: e.leftovers.append("1 containers of north")),
    "an attempt that never ended": (LEFTOVERS, lambda e: setattr(task_of(e), "open_attempts", 1)),
    "work trees that are pushed": (LEFTOVERS, lambda e: setattr(task_of(e), "kept_trees", 1)),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_violation_is_reported_by_its_check(what: str) -> None:
    check, forge = FORGED[what]
    evidence = good()
    forge(evidence)
    assert check in violations(evidence)


def test_recovery_is_counted_from_the_fault_to_the_next_step() -> None:
    evidence = good()
    evidence.faults[0].ended = 66.5  # between the sixth and the seventh event
    assert recovery_times(evidence) == {"worker killed": [0.5]}
    assert (percentile([3, 1, 2], 0.5), percentile([1, 2, 3], 0.99), percentile([], 0.5)) == (2, 3, None)
