"""Tasks whose right result is known before they run: what the model will say, and what must be left of it.

Every tool call has one effect on the tree that can be told from every other. A call that was in the air when its
sandbox was lost may have had its effect or not, but not twice: `results` lists every tree that is right.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, tuple[str, str]]
"""Path → (git's mode, content). The content of a symlink is where it points to."""

USAGE = {"input_tokens": 200, "output_tokens": 40}
COUNTER = "counter"
BASE: Tree = {"README.md": ("100644", "a sample\n"), "old.txt": ("100644", "old\n")}
"""What every repository holds to begin with."""

POOR_BUDGET_USD = 0.06
POOR_USAGE = {"input_tokens": 200, "output_tokens": 1500}
"""With these a task can pay for a few steps and not for all that its model would say."""

BUDGET_ERRORS = frozenset({"budget_exceeded"})
MODEL_ERRORS = frozenset({"model_refused_request"})


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call. `kind`: append, write, remove, link, chmod."""

    kind: str
    path: str
    text: str = ""
    seconds: float = 0.0
    """How long its command goes on after its effect."""

    def block(self) -> dict[str, Any]:
        """As the model says it."""
        if self.kind == "write":
            return {"type": "tool_use", "name": "write_file", "input": {"path": self.path, "content": self.text}}
        after = f"; sleep {self.seconds:g}" if self.seconds else ""
        command = {
            "append": f"echo {self.text} >> {self.path}",
            "remove": f"rm -f {self.path}",
            "link": f"ln -sfn {self.text} {self.path}",
            "chmod": f"if [ -e {self.path} ]; then chmod 755 {self.path}; fi",
        }[self.kind]
        given = {"command": command + after, "timeout_s": 120}
        return {"type": "tool_use", "name": "run_command", "input": given}

    def change(self, tree: Tree) -> None:
        match self.kind:
            case "append":
                mode, content = tree.get(self.path, ("100644", ""))
                tree[self.path] = (mode, f"{content}{self.text}\n")
            case "write":
                tree[self.path] = (tree.get(self.path, ("100644", ""))[0], self.text)
            case "remove":
                tree.pop(self.path, None)
            case "link":
                tree[self.path] = ("120000", self.text)
            case "chmod" if self.path in tree:
                tree[self.path] = ("100755", tree[self.path][1])


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of the model; without calls it is the end of a round."""

    calls: tuple[Call, ...] = ()
    usage: dict[str, int] = field(default_factory=lambda: USAGE)
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    gate: str | None = None
    gate_after_events: int = 0
    refused: bool = False
    """The model's provider refuses the request."""

    def turns(self) -> Iterator[dict[str, Any]]:
        text = "I will do what comes next and look at it. " if self.calls else "Done. "
        turn: dict[str, Any] = {
            "content": [{"type": "text", "text": text * 3}, *(call.block() for call in self.calls)],
            "stop_reason": "tool_use" if self.calls else "end_turn",
            "usage": self.usage,
            "delay_s": self.delay_s,
            "chunk_delay_s": self.chunk_delay_s,
        }
        if self.gate is not None:
            turn |= {"gate": self.gate, "gate_after_events": self.gate_after_events}
        if self.refused:
            yield {"fault": "status", "status": 400, "message": "no", "times": "forever"}
        yield turn


@dataclass(frozen=True, slots=True)
class Plan:
    """One task: `rounds` of steps, the first by its prompt, each other one by a follow-up message.

    `name` marks its prompt and its model requests. `right` is the only right final state.
    """

    name: str
    rounds: tuple[tuple[Step, ...], ...]
    repo: str
    right: str = "completed"
    errors: frozenset[str] = frozenset()
    """Codes with which it may fail, where failing is right."""
    budget_usd: float = 20.0
    cancel_after_step: int | None = None

    @property
    def prompt(self) -> str:
        return f"do it [trajectory:{self.name}]"

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for part in self.rounds for step in part)

    @property
    def pushes(self) -> bool:
        return self.right == "completed"

    def trajectory(self) -> list[dict[str, Any]]:
        return [turn for step in self.steps for turn in step.turns()]

    def call(self, step: int, index: int) -> Call:
        """Steps count from 1. Raises IndexError: the model said no such thing."""
        return self.steps[step - 1].calls[index]

    def results(self, interrupted: Iterable[tuple[int, int]]) -> list[Tree]:
        """Every tree that is right when the calls (step, index) of `interrupted` happened once or not at all."""
        unsure = sorted(interrupted)
        found: list[Tree] = []
        for happened in itertools.product((False, True), repeat=len(unsure)):
            left_out = {call for call, did in zip(unsure, happened, strict=True) if not did}
            tree = dict(BASE)
            for number, step in enumerate(self.steps, start=1):
                for index, call in enumerate(step.calls):
                    if (number, index) not in left_out:
                        call.change(tree)
            if tree not in found:
                found.append(tree)
        return found


def make_plans(seed: int, count: int, repo: str) -> list[Plan]:
    """The tasks of a run: the same for the same seed. Every kind is among the first eight."""
    chance = random.Random(f"plans {seed}")
    kinds = ("work", "follow_up", "cancel", "work", "fail", "poor", "work", "work")
    return [_MAKERS[kinds[number % len(kinds)]](chance, f"t{number}", repo) for number in range(count)]


def _work(chance: random.Random, name: str, repo: str) -> Plan:
    return Plan(name, (_round(chance, name, 0, chance.randint(3, 5)),), repo)


def _follow_up(chance: random.Random, name: str, repo: str) -> Plan:
    first = _round(chance, name, 0, 2)
    return Plan(name, (first, _round(chance, name, len(first), 2)), repo)


def _cancel(chance: random.Random, name: str, repo: str) -> Plan:
    """Its model never says its last word, so nothing but the cancel can end it."""
    *steps, last = _round(chance, name, 0, 3)
    held = Step(delay_s=last.delay_s, gate=f"{name}-never")
    return Plan(name, ((*steps, held),), repo, right="cancelled", cancel_after_step=chance.randint(1, 3))


def _fail(chance: random.Random, name: str, repo: str) -> Plan:
    *steps, _last = _round(chance, name, 0, 2)
    return Plan(name, ((*steps, Step(refused=True)),), repo, right="failed", errors=MODEL_ERRORS)


def _poor(chance: random.Random, name: str, repo: str) -> Plan:
    steps = tuple(
        Step(calls=(Call("append", COUNTER, f"{name}.{number}.0"),), usage=POOR_USAGE, delay_s=chance.uniform(0.1, 0.4))
        for number in range(1, 10)
    )
    return Plan(name, ((*steps, Step()),), repo, right="failed", errors=BUDGET_ERRORS, budget_usd=POOR_BUDGET_USD)


_MAKERS = {"work": _work, "follow_up": _follow_up, "cancel": _cancel, "fail": _fail, "poor": _poor}


def _round(chance: random.Random, name: str, before: int, count: int) -> tuple[Step, ...]:
    """`count` steps with calls, and one that ends the round; `before` steps came earlier."""
    steps = []
    for number in range(before + 1, before + count + 1):
        calls = [_append(chance, name, number, 0)]
        calls += [_other(chance, name, number, index) for index in range(1, chance.randint(1, 3))]
        chance.shuffle(calls)
        steps.append(Step(calls=tuple(calls), delay_s=chance.uniform(0.1, 0.9), chunk_delay_s=chance.uniform(0, 0.04)))
    return (*steps, Step(delay_s=chance.uniform(0.1, 0.5)))


def _append(chance: random.Random, name: str, step: int, index: int) -> Call:
    return Call("append", COUNTER, f"{name}.{step}.{index}", seconds=chance.choice((0, 0, 0.3, 1.5)))


def _other(chance: random.Random, name: str, step: int, index: int) -> Call:
    own = f"{name}.{step}.{index}"
    return chance.choice(
        (
            Call("append", COUNTER, own),
            Call("write", f"notes/{own}.txt", f"note {own}\n"),
            Call("write", f"{own}.txt", f"text {own}\n" * 50),
            Call("remove", "old.txt"),
            Call("link", f"link.{own}", "README.md"),
            Call("chmod", "README.md"),
        )
    )
