"""What the model says in these tests. Each command leaves its word in `counter`, so the tree tells what was run."""

from __future__ import annotations

from typing import Any

USAGE = {"input_tokens": 100, "output_tokens": 20}
DONE = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn", "usage": USAGE}


def command(text: str, **more: Any) -> dict[str, Any]:
    """A turn that says something and runs a command."""
    return {
        "content": [
            {"type": "text", "text": "I will run a command and look at what it says. " * 4},
            {"type": "tool_use", "name": "run_command", "input": {"command": text, **more}},
        ],
        "stop_reason": "tool_use",
        "usage": USAGE,
    }


def count(word: str) -> dict[str, Any]:
    return command(f"echo {word} >> counter")


def held(turn: dict[str, Any], gate: str, *, after: int = 0) -> dict[str, Any]:
    """The turn stops at `gate` after so many events of its stream; 0: before its first byte."""
    return {**turn, "gate": gate, "gate_after_events": after}


WAIT = command("until [ -e /tmp/go ]; do sleep 0.03; done; echo two >> counter", timeout_s=300)
LOOK = command("cat counter; echo three >> counter")

SEEN = 'cat .venv/id /opt/marker; echo "$MODE"; echo "password $TEST_PASSWORD"'
EQUIPPED = [
    command(f"{SEEN}; echo one >> counter"),
    command(f"until [ -e /tmp/go ]; do sleep 0.03; done; {SEEN}; echo two >> counter", timeout_s=300),
    command(f"{SEEN}; echo three >> counter"),
    DONE,
]

FENCED = {
    "sandbox": ("sandbox_named", ""),
    "base": ("base_fixed", ""),
    "money": ("money_held", "2"),
    "step": ("usage", "2"),
    "calls": ("tool_call", "2.0"),
    "result": ("tool_result", "2.0"),
    "patch": ("patch_kept", ""),
    "intent": ("push_meant", ""),
    "push": ("", ""),
    "pushed": ("branch_pushed", ""),
    "end": ("completed", ""),
}
"""Every kind of write of a worker, and where it is held (`tests.referee.holds`): the place, and the step or call."""

ROLLING_STEPS = 15

TRAJECTORIES: dict[str, list[Any]] = {
    **dict.fromkeys(("equipped", "host-lost", "changed", "building"), EQUIPPED),
    "plain": [count("one"), DONE],
    "rolling": [*(command(f"sleep 0.7; echo {number} >> counter") for number in range(ROLLING_STEPS)), DONE],
    **{f"fence-{name}": [count("one"), count("two"), DONE] for name in FENCED},
    "tool": [count("one"), command("echo two >> counter; exec sleep 31301", timeout_s=300), LOOK, DONE],
    "result": [
        count("one"),
        command("echo two >> counter; until [ -e /tmp/go ]; do sleep 0.03; done; exec sleep 0.031302"),
        LOOK,
        DONE,
    ],
    "ask": [count("one"), held(count("two"), "ask"), LOOK, DONE],
    "stream": [count("one"), held(count("two"), "stream", after=5), LOOK, DONE],
    "commit": [count("one"), held(count("two"), "commit", after=5), LOOK, DONE],
    "answered": [count("one"), held(count("two"), "answered", after=5), LOOK, DONE],
    "resulted": [count("one"), command("until [ -e /tmp/go ]; do sleep 0.03; done; echo two >> counter"), LOOK, DONE],
    **{
        name: [count("one"), WAIT, LOOK, DONE]
        for name in ("adopted", "unserved", "sent-True", "sent-False", "left", "unheard", "upgraded", "poison", "twice")
    },
    "left-asking": [count("one"), held(count("two"), "left-asking"), LOOK, DONE],
    "mid-stream": [count("one"), held(count("two"), "mid-stream", after=5), LOOK, DONE],
    "redis": [count("one"), held(count("two"), "redis", after=5), LOOK, DONE],
    "postgres": [count("one"), held(count("two"), "postgres", after=5), LOOK, DONE],
    "api": [count("one"), held(count("two"), "api", after=5), LOOK, DONE],
    "unholdable": [command("printf '\0' > counter"), count("one"), DONE],
    "push": [count("one"), held(DONE, "push"), count("two"), DONE],
    "unsaid": [count("one"), held(DONE, "unsaid")],
    "engine": [count("one"), held(DONE, "engine")],
    "elsewhere": [held(DONE, "elsewhere")],
    "busy": [held(DONE, "busy")],
    # The first to ask is held apart from whoever asks again.
    "takeover": [
        count("one"),
        {"fault": "slow", "chunk_delay_s": 0, "gate": "zombie", "gate_after_events": 5},
        held(count("two"), "successor"),
        LOOK,
        DONE,
    ],
}
