"""A task's events as lines for a person. What comes from a model or a repository is not trusted with the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.text import Text

Event = Mapping[str, Any]
Data = Mapping[str, Any]

HEAD_LINES, TAIL_LINES = 3, 5
"""Of a long output these many lines are shown."""
ARGUMENT_CHARS = 110
INDENT = " " * 9

# Control characters could move the cursor or rename the window; bidirectional ones show text in another order.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """`text` without what a terminal would obey; line ends and tabs stay."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


class Story:
    """Tells one task, event by event; keeps what a status line shows."""

    def __init__(self) -> None:
        self.began: datetime | None = None
        self.step = 0
        self.spent_usd = 0.0
        self.doing = "waiting for a worker"
        self.nothing_runs = False
        """Known to be so: no attempt began since it was sent, or since it ended."""

    def tell(self, event: Event) -> list[Text]:
        """The lines of one event; none for types that are not for people (or not known here)."""
        data = event["data"]
        at = datetime.fromisoformat(event["at"])
        self.began = self.began or at
        teller = _TELLERS.get(event["type"])
        if teller is None:
            return []
        lines = teller(self, data)
        self.nothing_runs = _NOTHING_RUNS_AFTER.get(event["type"], self.nothing_runs)
        return [_stamped(line, (at - self.began).total_seconds()) if not n else line for n, line in enumerate(lines)]

    def elapsed_s(self, now: datetime) -> float:
        return max(0.0, (now - self.began).total_seconds()) if self.began else 0.0


def diff_lines(diff: str) -> Iterable[Text]:
    """A unified diff in colour."""
    for line in printable(diff).splitlines():
        yield Text(line, style=next((style for start, style in _DIFF_STYLES if line.startswith(start)), ""))


_DIFF_STYLES = (
    ("diff ", "bold"),
    ("index ", "dim"),
    ("--- ", "bold"),
    ("+++ ", "bold"),
    ("@@", "cyan"),
    ("+", "green"),
    ("-", "red"),
)


def _stamped(line: Text, seconds: float) -> Text:
    return Text.assemble((f"{seconds:6.1f}s  ", "dim"), line)


def _created(story: Story, data: Data) -> list[Text]:
    story.doing = "waiting for a worker"
    return [
        Text(printable(data["repo_url"]), style="bold"),
        *_indented(data["prompt"]),
        *_indented(f"{data['model']}, at most ${data['budget_usd']:.2f}", style="dim"),
    ]


def _started(story: Story, data: Data) -> list[Text]:
    story.doing = "preparing the sandbox"
    return [_plain(f"attempt {data['attempt']} on {data['worker']}, sandbox {data['sandbox']}", "dim")]


def _resumed(story: Story, data: Data) -> list[Text]:
    story.doing = "thinking"
    return [_plain(f"resumed as attempt {data['attempt']} at step {data['step']}: {data['reason']}", "yellow")]


def _thinking(story: Story, data: Data) -> list[Text]:
    story.doing = "thinking"
    return _folded(data["text"], style="dim italic")


def _message(story: Story, data: Data) -> list[Text]:
    if data["role"] == "user":
        return _folded(f"you: {data['text']}", style="bold")
    story.doing = "working"
    return _folded(data["text"], head=40, tail=10) if data["text"] else []


def _usage(story: Story, data: Data) -> list[Text]:
    story.step, story.spent_usd = data["step"], data["spent_usd"]
    read = data["input_tokens"] + data["cache_creation_input_tokens"] + data["cache_read_input_tokens"]
    tokens = f"{read:,} tokens in, {data['output_tokens']:,} out"
    return [_plain(f"step {data['step']}: {tokens}, ${data['cost_usd']:.4f} (${data['spent_usd']:.4f} so far)", "dim")]


def _tool_call(story: Story, data: Data) -> list[Text]:
    shown = _call(data["tool"], data["args"])
    story.doing = shown
    return [Text.assemble(("▸ ", "cyan"), (shown, "cyan")), *_edit(data)]


def _tool_result(story: Story, data: Data) -> list[Text]:
    story.doing = "thinking"
    verdict = ("✗", "red") if data["is_error"] else ("✓", "green")
    first = Text.assemble(verdict, (f" {data['duration_ms'] / 1000:.2f} s", "dim"))
    return [first, *_indented_folded(data["output"])]


def _question(story: Story, data: Data) -> list[Text]:
    story.doing = "waiting for your answer"
    return _folded(f"the agent asks: {data['text']}", style="bold yellow")


def _answer(story: Story, data: Data) -> list[Text]:
    story.doing = "thinking"
    return _folded(f"you: {data['text']}", style="bold")


def _progress(story: Story, data: Data) -> list[Text]:
    story.doing = printable(f"{data['stage']} {data['percent']} %")
    return []


def _pushed(story: Story, data: Data) -> list[Text]:
    story.doing = "finishing"
    files = "1 file" if data["files_changed"] == 1 else f"{data['files_changed']} files"
    changed = f"{files}, +{data['insertions']} -{data['deletions']}"
    return [_plain(f"pushed {data['branch']} ({data['sha'][:10]}): {changed}", "green")]


def _pull_request(story: Story, data: Data) -> list[Text]:  # noqa: ARG001  (all tellers look alike)
    return [_plain(f"pull request {data['url']}", "green")]


def _completed(story: Story, data: Data) -> list[Text]:  # noqa: ARG001  (the last message was shown as such)
    story.doing = "completed"
    return [Text("completed", style="bold green")]


def _failed(story: Story, data: Data) -> list[Text]:
    story.doing = "failed"
    error = data["error"]
    return [_plain(f"failed: {error['message']} ({error['code']})", "bold red"), *_indented(error["hint"])]


def _cancelled(story: Story, data: Data) -> list[Text]:
    story.doing = "cancelled"
    took = "" if data["confirmed_dead_ms"] is None else f", its sandbox was gone after {data['confirmed_dead_ms']} ms"
    if story.nothing_runs:
        took = ", nothing had to be stopped"
    return [_plain(f"cancelled by {data['by']}{took}", "bold yellow")]


def _error(story: Story, data: Data) -> list[Text]:  # noqa: ARG001
    return [_plain(f"{data['message']} ({data['code']})", "yellow")]


_TELLERS: dict[str, Callable[[Story, Data], list[Text]]] = {
    "task_created": _created,
    "task_started": _started,
    "task_resumed": _resumed,
    "thinking": _thinking,
    "message": _message,
    "usage": _usage,
    "tool_call": _tool_call,
    "tool_result": _tool_result,
    "question": _question,
    "answer": _answer,
    "build_progress": _progress,
    "branch_pushed": _pushed,
    "pull_request": _pull_request,
    "completed": _completed,
    "failed": _failed,
    "cancelled": _cancelled,
    "error": _error,
}


_NOTHING_RUNS_AFTER = {
    "task_created": True,
    "task_started": False,
    "task_resumed": False,
    "completed": True,
    "failed": True,
    "cancelled": True,
}


def _edit(data: Data) -> list[Text]:
    """The change that an edit_file asks for."""
    sides = (("old", "-", "red"), ("new", "+", "green")) if data["tool"] == "edit_file" else ()
    return [
        Text(f"{INDENT}{sign} {line}", style=style)
        for name, sign, style in sides
        for line in _fold(str(data["args"].get(name, "")), HEAD_LINES, TAIL_LINES)
    ]


_LARGE = {"edit_file": ("old", "new"), "write_file": ("content",)}


def _call(tool: str, args: Mapping[str, Any]) -> str:
    """A tool call on one line: what it is about first, large arguments left out."""
    if tool == "run_command":
        shown = f"$ {args.get('command', '')}"
    else:
        named = (f"{name}={value}" for name, value in args.items() if name not in {"path", *_LARGE.get(tool, ())})
        shown = " ".join([tool, *([str(args["path"])] if "path" in args else []), *named])
    line = " ⏎ ".join(printable(shown).splitlines())
    return line if len(line) <= ARGUMENT_CHARS else f"{line[:ARGUMENT_CHARS]}…"


def _plain(text: str, style: str) -> Text:
    return Text(printable(text), style=style)


def _indented(text: object, style: str = "") -> list[Text]:
    return [Text(f"{INDENT}{line}", style=style) for line in printable(text).splitlines()]


def _folded(text: str, *, style: str = "", head: int = HEAD_LINES, tail: int = TAIL_LINES) -> list[Text]:
    """The first line as it is, the others indented, the middle of many left out."""
    first, *others = _fold(text, head, tail)
    return [Text(first, style=style), *(Text(f"{INDENT}{line}", style=style) for line in others)]


def _indented_folded(text: str) -> list[Text]:
    return [Text(f"{INDENT}{line}", style="dim") for line in _fold(text, HEAD_LINES, TAIL_LINES)]


def _fold(text: str, head: int, tail: int) -> list[str]:
    lines = printable(text).strip("\n").splitlines() or [""]
    if len(lines) <= head + tail + 1:
        return lines
    return [*lines[:head], f"… {len(lines) - head - tail} more lines …", *lines[-tail:]]
