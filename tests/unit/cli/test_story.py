"""How a task is told to a person, and that nothing of it can command the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from infra.cli.screen import JsonScreen, PlainScreen, TerminalScreen
from infra.cli.story import diff_lines, printable

EVENTS: list[tuple[str, dict[str, Any]]] = [
    (
        "task_created",
        {"prompt": "Mend it", "repo_url": "https://git.example/r", "model": "replay:x", "budget_usd": 5.0},
    ),
    ("task_started", {"attempt": 1, "worker": "worker1@host", "sandbox": "docker"}),
    ("message", {"message_id": "1.1", "role": "assistant", "text": "I look.", "stop_reason": "tool_use"}),
    (
        "usage",
        {
            "step": 1,
            "model": "m",
            "input_tokens": 1000,
            "output_tokens": 20,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 30,
            "cost_usd": 0.01,
            "spent_usd": 0.02,
        },
    ),
    ("tool_call", {"call_id": "1.0", "step": 1, "tool": "run_command", "args": {"command": "make test"}}),
    (
        "tool_result",
        {
            "call_id": "1.0",
            "output": "\n".join(f"line {n}" for n in range(50)),
            "truncated": False,
            "is_error": True,
            "duration_ms": 1234,
            "tree": None,
        },
    ),
    ("a_type_of_the_future", {"anything": 1}),
    ("branch_pushed", {"branch": "farhand/x", "sha": "a" * 40, "files_changed": 1, "insertions": 2, "deletions": 3}),
    ("failed", {"error": {"code": "budget_exceeded", "message": "too expensive", "hint": "Give more."}}),
]


def frames() -> list[dict[str, Any]]:
    return [
        {"type": "event", "event": {"v": 1, "seq": seq, "type": kind, "at": f"2026-01-01T00:00:0{seq}Z", "data": data}}
        for seq, (kind, data) in enumerate(EVENTS, 1)
    ]


def test_plain_lines() -> None:
    out = io.StringIO()
    with PlainScreen(Console(file=out, width=60)) as screen:
        for frame in frames():
            screen.show(frame)
    text = out.getvalue()
    assert text.splitlines() == [
        "   0.0s  https://git.example/r",
        "         Mend it",
        "         replay:x, at most $5.00",
        "   1.0s  attempt 1 on worker1@host, sandbox docker",
        "   2.0s  I look.",
        "   3.0s  step 1: 1,230 tokens in, 20 out, $0.0100 ($0.0200 so far)",
        "   4.0s  ▸ $ make test",
        "   5.0s  ✗ 1.23 s",
        *(f"         line {n}" for n in range(3)),
        "         … 42 more lines …",
        *(f"         line {n}" for n in range(45, 50)),
        "   7.0s  pushed farhand/x (aaaaaaaaaa): 1 file, +2 -3",
        "   8.0s  failed: too expensive (budget_exceeded)",
        "         Give more.",
    ]
    assert "\x1b" not in text


@pytest.mark.parametrize("kind", ["message", "tool_result", "tool_call", "branch_pushed", "failed"])
def test_nothing_of_a_task_reaches_the_terminal_as_a_command(kind: str) -> None:
    data = json.loads(json.dumps(dict(EVENTS)[kind]).replace('": "', '": "\\u001b]0;owned\\u0007\\u202e'))
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=80))
    screen.show({"type": "event", "event": {"type": kind, "at": "2026-01-01T00:00:01Z", "data": data}})
    assert "owned" in out.getvalue()
    assert not set(out.getvalue()) & {"\x1b", "\x07", "\u202e"}


def test_json_is_one_event_a_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonScreen() as screen:
        screen.show({"type": "subscribed", "last_seq": 3, "status": "running"})
        screen.show({"type": "tick"})
        screen.show({"type": "delta", "message_id": "1.1", "part": {"index": 0}, "text": "I"})
        screen.show({"type": "connection", "up": False, "reason": "gone"})
        for frame in frames():
            screen.show(frame)
    out, err = capsys.readouterr()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert "gone" in err


def test_what_is_being_written_is_shown_live_and_replaced_by_its_message() -> None:
    out = io.StringIO()
    screen = TerminalScreen(Console(file=out, force_terminal=True, width=80))
    part = {"index": 0, "kind": "text"}
    delta = {"type": "delta", "message_id": "1.1", "part": part}
    screen.show({"type": "partial", "message_id": "1.1", "part": part, "text": "I lo", "next": 2})
    screen.show({**delta, "index": 2, "text": "ok at "})
    screen.show({**delta, "index": 3, "text": "it"})
    assert screen._writing.tail(5) == "I look at it"
    screen.show({**delta, "message_id": "1.2", "index": 0, "text": "Again"})
    assert screen._writing.tail(5) == "Again"
    screen.show({**delta, "index": 4, "text": " too late"})
    assert screen._writing.tail(5) == "Again"
    screen.show(frames()[2])
    assert screen._writing.tail(5) == ""


@pytest.mark.parametrize(
    ("before", "dead_ms", "told"),
    [
        (["task_created"], None, "cancelled by user, nothing had to be stopped"),
        (["task_created", "task_started"], 70, "cancelled by user, its sandbox was gone after 70 ms"),
        (["task_created", "task_started"], None, "cancelled by user"),  # by a sweep, which saw nothing die
        (["task_created", "task_started", "failed"], None, "cancelled by user, nothing had to be stopped"),
        ([], None, "cancelled by user"),  # watched from here on: who knows
    ],
)
def test_a_cancel_claims_only_what_is_known(before: list[str], dead_ms: int | None, told: str) -> None:
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=80))
    known = dict(EVENTS) | {"cancelled": {"by": "user", "confirmed_dead_ms": dead_ms}}
    for kind in (*before, "cancelled"):
        screen.show({"type": "event", "event": {"type": kind, "at": "2026-01-01T00:00:01Z", "data": known[kind]}})
    assert out.getvalue().splitlines()[-1].endswith(f"s  {told}")


def test_an_edit_shows_its_change() -> None:
    out = io.StringIO()
    args = {"path": "a.py", "old": "if a > b:\n", "new": "if a >= b:\n"}
    data = {"call_id": "1.0", "step": 1, "tool": "edit_file", "args": args}
    event = {"type": "tool_call", "at": "2026-01-01T00:00:01Z", "data": data}
    PlainScreen(Console(file=out, width=80)).show({"type": "event", "event": event})
    assert out.getvalue().splitlines() == [
        "   0.0s  ▸ edit_file a.py",
        "         - if a > b:",
        "         + if a >= b:",
    ]


def test_diff_is_coloured() -> None:
    styles = [str(line.style) for line in diff_lines("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n c\n")]
    assert styles == ["bold", "bold", "bold", "cyan", "red", "green", ""]


def test_printable_keeps_what_people_read() -> None:
    assert printable("tab\there\r\nümlaut 漢字 🎉") == "tab\there\nümlaut 漢字 🎉"
    assert printable("a\rb\x00\x9bc") == "a\N{REPLACEMENT CHARACTER}b" + "\N{REPLACEMENT CHARACTER}" * 2 + "c"
