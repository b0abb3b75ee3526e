"""The random part: tasks keep coming while faults keep coming, until both are used up. Seeded, and bounded."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass

import psycopg

from tests.referee.faults import Fault, Kind, Undo, kinds
from tests.referee.plans import Plan
from tests.referee.run import Run
from tests.referee.taskruns import TaskRun

OPEN_TASKS = 10
"""So many are under way at a time, if there are as many left."""
PAUSE_S = (0.2, 2.0)
"""Between two faults."""
WAIT_FOR_WORK_S = 30.0
"""A fault that would hit nobody waits so long for a task."""


@dataclass
class _Lasting:
    fault: Fault
    over_at: float
    undo: Undo


class Schedule:
    """Draws which fault hits what, and when. The order of its draws depends on nothing but the seed."""

    def __init__(self, run: Run, seed: int, faults: int, plans: list[Plan]) -> None:
        self._run = run
        self._chance = random.Random(f"faults {seed}")
        self._plans = list(plans)
        self._tasks: list[TaskRun] = []
        self._lasting: list[_Lasting] = []
        self._drawn = self._draw(faults)
        self._total = faults

    def _draw(self, count: int) -> list[tuple[Kind, str, float, float]]:
        """Kind, target, seconds and the pause before it. Every kind comes once before any comes twice."""
        docker = self._run.deployment.sandbox == "docker"
        known = [kind for kind in kinds(self._run.deployment.lease_ttl) if docker or kind.name != "engine away"]
        deck: list[Kind] = []
        drawn = []
        for _ in range(count):
            if not deck:
                deck = self._chance.sample(known, len(known))
            kind = deck.pop()
            target = self._chance.choice(kind.targets)
            drawn.append((kind, target, kind.draw_seconds(self._chance), self._chance.uniform(*PAUSE_S)))
        return drawn

    def carry_out(self, stop: threading.Event) -> None:
        """Returns when all faults are over and all tasks are sent, or at `stop`. Whatever lasts is undone."""
        try:
            for number, (kind, target, seconds, pause) in enumerate(self._drawn, start=1):
                self._feed(number / self._total)
                self._wait(pause, stop)
                self._wait_for_work(stop)
                self._wait_until_free(target, stop)
                if stop.is_set():
                    return
                self._run.say(f"fault {number} of {self._total}: {kind.name} ({target}) {_for(seconds)}")
                self._hit(kind, target, seconds)
            self._feed(1.0)
            while self._lasting and not stop.is_set():
                self._wait(0.1, stop)
        finally:
            for lasting in self._lasting:
                self._undo(lasting)
            self._lasting.clear()

    def _hit(self, kind: Kind, target: str, seconds: float) -> None:
        hit = [] if kind.hits == "none" else self._run.running(target if kind.hits == "host" else None)
        fault = Fault(kind.name, target, time.time(), hit=hit)
        self._run.faults.append(fault)
        undo = kind.do(self._run.deployment, target, seconds)
        if undo is None or not seconds:
            fault.ended = time.time()
        else:
            self._lasting.append(_Lasting(fault, time.monotonic() + seconds, undo))

    def _undo(self, lasting: _Lasting) -> None:
        lasting.undo()
        lasting.fault.ended = time.time()

    def _wait(self, seconds: float, stop: threading.Event) -> None:
        """Undo meanwhile what is over."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for lasting in [one for one in self._lasting if one.over_at <= now]:
                self._lasting.remove(lasting)
                self._undo(lasting)
            if now >= until or stop.wait(min(0.05, until - now)):
                return

    def _wait_until_free(self, target: str, stop: threading.Event) -> None:
        while any(lasting.fault.target == target for lasting in self._lasting) and not stop.is_set():
            self._wait(0.1, stop)

    def _wait_for_work(self, stop: threading.Event) -> None:
        give_up = time.monotonic() + WAIT_FOR_WORK_S
        while time.monotonic() < give_up and not stop.is_set() and not self._run.running():
            self._wait(0.2, stop)

    def _feed(self, progress: float) -> None:
        """Keep some tasks under way, and some for later: as many are sent as faults were done, and a few ahead."""
        open_now = OPEN_TASKS
        with contextlib.suppress(psycopg.Error):
            ours = {task.plan.name for task in self._tasks}
            open_now = sum(line.split()[0] in ours for line in self._run.open_tasks())
            open_now += sum(not task.id for task in self._tasks)
        total = len(self._plans) + len(self._tasks)
        wanted = round(total * progress) + OPEN_TASKS
        room = total if progress >= 1 else max(0, OPEN_TASKS - open_now)
        count = min(room, wanted - len(self._tasks), len(self._plans))
        fresh = [self._run.add(self._plans.pop(0)) for _ in range(max(0, count))]
        self._tasks += fresh
        self._run.submit_all(fresh)


def _for(seconds: float) -> str:
    return f"for {seconds:.1f} s" if seconds else ""
