"""Every boundary between two durable effects, by name: one task is held at each, and then all its parties are killed.

The effects of a task, in order. A boundary is named after the effect that comes next, which is held at the moment
when it would become durable; then whoever asked for it is killed. A `dropped` one never was: what comes back finds
only the effects before it. A `kept` one is carried out, and nobody was left to hear of it.

    task created    the row and its first event        (the api is killed)
    wake-up sent    the message in Redis                (lost with the way to Redis; there is no `kept`)
    claimed         attempt and token
    sandbox named   the container's id in the attempt's row, before there is a container
    base fixed      the commit that the task starts from; the container is there, and has no job
    money held      the hold for a model call
    model asked     the provider has the request, and has not begun to answer (dropped), or is half through (kept)
    step recorded   the model's answer
    calls recorded  the tool calls of that answer
    call running    the command has had its effect, and has not ended
    result 1 of 2   the first of two calls of one answer has ended; the second one must not see a restart
    result 2 of 2   both have ended
    patch kept      the diff
    push meant      the intent {sha, expected}
    pushed          the branch at the git host
    push recorded   the event, and the packs that are dropped with it
    pull request    at GitHub
    pr recorded     its event
    cancelled       the end by the user's wish
    completed       the end
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.referee.faults import Fault
from tests.referee.holds import Hold, Holds
from tests.referee.plans import COUNTER, Call, Plan, Step
from tests.referee.run import Run
from tests.referee.taskruns import TaskRun
from tests.referee.waiting import NeverHappenedError
from tests.standin.github import Fault as Answer
from tests.standin.gitserver import HeldPush

REACH_S = 120.0
GIVE_UP_SENDING_S = 3.0
"""After so long the api has given up a wake-up that it could not send."""
OWNER = "boundary"


@dataclass(frozen=True, slots=True)
class Boundary:
    """`place` and `detail` say where the write is held (`holds`); an empty place: it is held in another way."""

    name: str
    place: str = ""
    detail: str = ""
    variants: tuple[str, ...] = ("dropped", "kept")


BOUNDARIES = (
    Boundary("task created", "task_created"),
    Boundary("wake-up sent", variants=("dropped",)),
    Boundary("claimed", "task_started"),
    Boundary("sandbox named", "sandbox_named"),
    Boundary("base fixed", "base_fixed"),
    Boundary("money held", "money_held", "2"),
    Boundary("model asked"),
    Boundary("step recorded", "usage", "2"),
    Boundary("calls recorded", "tool_call", "2.0"),
    Boundary("call running", variants=("dropped",)),
    Boundary("result 1 of 2", "tool_result", "2.0"),
    Boundary("result 2 of 2", "tool_result", "2.1"),
    Boundary("patch kept", "patch_kept"),
    Boundary("push meant", "push_meant"),
    Boundary("pushed"),
    Boundary("push recorded", "branch_pushed"),
    Boundary("pull request"),
    Boundary("pr recorded", "pull_request"),
    Boundary("cancelled", "cancelled"),
    Boundary("completed", "completed"),
)

_LASTING = tuple(boundary.name for boundary in BOUNDARIES if boundary.name not in ("wake-up sent", "call running"))


@dataclass
class Case:
    """One boundary in one variant. `hit`: somebody was there when it was struck, as seen from outside."""

    boundary: Boundary
    variant: str
    plan: Plan
    hit: bool = False
    task: TaskRun | None = None
    hold: Hold | None = None

    @property
    def label(self) -> str:
        return f"{self.boundary.name}, {self.variant}"


def make_cases(*, both: bool, seed: int) -> list[Case]:
    """Every boundary: in all its variants, or in one of them each, which another seed may change."""
    cases = []
    for number, boundary in enumerate(BOUNDARIES):
        count = len(boundary.variants)
        chosen = boundary.variants if both else (boundary.variants[(number + seed) % count],)
        cases += [Case(boundary, variant, _plan(boundary, variant)) for variant in chosen]
    return cases


def _plan(boundary: Boundary, variant: str) -> Plan:
    name = f"b.{boundary.name.replace(' ', '-')}.{variant}"
    gate = {}
    if boundary.name == "model asked":
        gate = {"gate": name, "gate_after_events": 0 if variant == "dropped" else 5}
    second = Step(
        calls=(
            Call("append", COUNTER, f"{name}.2.0", seconds=12.0 if boundary.name == "call running" else 0.0),
            Call("append", COUNTER, f"{name}.2.1"),
        ),
        **gate,  # type: ignore[arg-type]
    )
    first = Step(calls=(Call("append", COUNTER, f"{name}.1.0"), Call("write", "one.txt", "one\n")))
    third = Step(calls=(Call("append", COUNTER, f"{name}.3.0"), Call("remove", "old.txt")))
    if boundary.name == "cancelled":
        steps = (first, second, Step(gate=f"{name}-never"))
        return Plan(name, (steps,), f"{OWNER}/{name}", right="cancelled", cancel_after_step=2)
    return Plan(name, ((first, second, third, Step()),), f"{OWNER}/{name}")


class BoundaryPhase:
    """Holds every case at its boundary, then strikes all at once."""

    def __init__(self, run: Run, cases: list[Case]) -> None:
        self._run = run
        self._deployment = run.deployment
        self._cases = cases
        self._answers: dict[str, Answer] = {}
        self.struck_at = 0.0

    def carry_out(self, stop: threading.Event) -> None:
        """Returns when all cases were struck; their tasks go on. A case that was not reached is not `hit`."""
        holds = Holds(self._deployment.database_url)
        try:
            for case in self._cases:
                self._run.say(f"boundary: preparing {case.label}")
                self._prepare(case, holds)
            waves = (("wake-up sent",), _LASTING, ("call running",))  # which does not last until all others are there
            self._lose_wake_ups([case for case in self._cases if case.boundary.name in waves[0]], stop)
            for wave in waves[1:]:
                cases = [case for case in self._cases if case.boundary.name in wave]
                self._submit(cases)
                self._wait_until_reached(cases, holds, stop)
            self._strike(holds)
        finally:
            holds.remove()
            self._open_everything()

    def _prepare(self, case: Case, holds: Holds) -> None:
        boundary, repo = case.boundary, case.plan.repo
        self._run.open_repo(repo)
        if boundary.place:
            case.hold = holds.add(boundary.place, f"[trajectory:{case.plan.name}]", boundary.detail)
        elif boundary.name == "pushed":
            self._deployment.git_host.hold_push(repo, afterwards=case.variant == "kept")
        elif boundary.name == "pull request":
            answer = Answer("hold", afterwards=case.variant == "kept", repo=repo)
            self._answers[repo] = self._deployment.github.inject("POST", answer)

    def _submit(self, cases: list[Case]) -> None:
        tasks = []
        for case in cases:
            case.task = self._run.add(case.plan)
            tasks.append(case.task)
        self._run.submit_all(tasks)

    def _lose_wake_ups(self, cases: list[Case], stop: threading.Event) -> None:
        """The task is accepted while its api has no way to Redis, and nobody has taken it when the way is mended."""
        way = self._deployment.ways["api-redis"]
        for case in cases:
            way.cut()
            try:
                case.task = self._run.add(case.plan)
                case.task.submit()
                stop.wait(GIVE_UP_SENDING_S)
            except NeverHappenedError as error:
                self._run.say(f"{case.label}: {error}")
            finally:
                way.mend()
            untouched = "select 1 from tasks where id::text = %s and status = 'pending' and attempt = 0"
            case.hit = way.refused > 0 and bool(self._deployment.rows(untouched, case.task.id if case.task else ""))

    def _wait_until_reached(self, cases: list[Case], holds: Holds, stop: threading.Event) -> None:
        deadline = time.monotonic() + REACH_S
        waiting = cases
        said = 0.0
        while waiting and time.monotonic() < deadline and not stop.wait(0.1):
            waiting = [case for case in waiting if not self._is_reached(case, holds)]
            if waiting and time.monotonic() > said + 5:
                said = time.monotonic()
                self._run.say(f"boundary: {len(waiting)} are not reached yet, such as {waiting[0].label}")

    def _is_reached(self, case: Case, holds: Holds) -> bool:
        if case.hold is not None:
            return holds.is_reached(case.hold)
        repo = case.plan.repo
        looks: dict[str, Callable[[], bool]] = {
            "model asked": lambda: any(
                request.held_at == case.plan.name for request in self._deployment.model.requests
            ),
            "call running": lambda: self._is_call_running(case),
            "pushed": lambda: _is_set(self._deployment.git_host.held_pushes.get(repo)),
            "pull request": lambda: _is_set(self._answers.get(repo)),
        }
        return looks[case.boundary.name]()

    def _is_call_running(self, case: Case) -> bool:
        running = "select 1 from tool_calls where task_id::text = %s and step = 2 and output is null"
        return bool(case.task and case.task.id and self._deployment.rows(running, case.task.id))

    def _strike(self, holds: Holds) -> None:
        """Whoever waits at a boundary at this moment is killed: the workers and the api, all at once."""
        for case in self._cases:
            if case.boundary.name != "wake-up sent":
                case.hit = self._is_reached(case, holds)
        began = self.struck_at = time.time()
        hit = {host.name: self._run.running(host.name) for host in self._deployment.hosts}
        for host in self._deployment.hosts:
            host.worker.send(signal.SIGKILL)
        self._deployment.api.send(signal.SIGKILL, whole_session=True)
        self._run.say("boundary: all workers and the api were killed")
        for case in self._cases:
            if case.hold is not None:
                (holds.drop if case.variant == "dropped" else holds.let_go)(case.hold)
            elif case.boundary.name == "pushed":
                self._deployment.git_host.end_push(case.plan.repo, dropped=case.variant == "dropped")
        for name, tasks in hit.items():
            self._run.faults.append(Fault("worker killed at a boundary", name, began, time.time(), hit=tasks))
        self._run.faults.append(Fault("api killed at a boundary", "api", began, time.time()))

    def _open_everything(self) -> None:
        """Whatever happened: nobody waits at a boundary of ours any more."""
        for case in self._cases:
            self._deployment.model.open_gate(case.plan.name)
        for repo in list(self._deployment.git_host.held_pushes):
            self._deployment.git_host.end_push(repo, dropped=True)
        for answer in self._answers.values():
            if answer.afterwards:  # else it ends with its client, and is not carried out
                answer.released.set()


def _is_set(held: HeldPush | Answer | None) -> bool:
    return held is not None and held.reached.is_set()
