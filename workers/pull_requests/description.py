"""Title and body of a pull request, made of what its task recorded.

Our part of the body stands between two marks. What people write around it stays; who takes the marks away has the
body to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.pull_requests.defused import closed, defused, fenced, one_line, shortened
from workers.pull_requests.facts import Facts, TestRun

MAX_TITLE_CHARS = 200
"""Before it is defused; GitHub takes 256."""
MAX_BODY_CHARS = 60_000
"""GitHub takes 65,536, and people may add to ours."""
_MAX_SUMMARY_CHARS = 20_000
_MAX_PROMPT_CHARS = 4_000
_MAX_COMMAND_CHARS = 300
_BEGIN, _END = "<!-- farhand:begin -->", "<!-- farhand:end -->"


def title(prompt: str) -> str:
    return defused(one_line(prompt, MAX_TITLE_CHARS))[:256] or "Farhand task"


def body(facts: Facts) -> str:
    """Summary, task, test commands as recorded, and what it took. Between the marks, both included."""
    parts = [
        closed(defused(shortened(facts.summary, _MAX_SUMMARY_CHARS))),
        "### Task\n\n" + fenced(defused(shortened(facts.prompt, _MAX_PROMPT_CHARS))),
        _tests(facts.tests),
        _footer(facts),
    ]
    text = "\n\n".join(part for part in parts if part)
    return f"{_BEGIN}\n{text[:MAX_BODY_CHARS]}\n{_END}"


def renewed(existing: str, ours: str) -> str:
    """`existing` with our part replaced by `ours`; unchanged where our part is gone."""
    existing = existing.replace("\r\n", "\n")
    before, begin, rest = existing.partition(_BEGIN)
    _, end, after = rest.rpartition(_END)
    return f"{before}{ours}{after}" if begin and end else existing


def _tests(runs: Sequence[TestRun]) -> str:
    """What was run and how it ended, in order. It says so where the files changed afterwards."""
    if not runs:
        return ""
    lines = []
    for run in runs:
        later = "" if run.as_pushed else "   (the files changed after this)"
        lines.append(f"{run.ending:<12} {one_line(' '.join(run.command.split()), _MAX_COMMAND_CHARS)}{later}")
    told = "Test commands that the agent ran, with the exit codes that were recorded:"
    return f"### Tests\n\n{told}\n\n{fenced(defused(chr(10).join(lines)))}"


def _footer(facts: Facts) -> str:
    steps = "1 step" if facts.steps == 1 else f"{facts.steps} steps"
    told = [f"Made by Farhand in {steps}, ${facts.spent_usd:.4f}"]
    if facts.link:
        told.append(f"[task]({facts.link})")
    return "---\n" + " · ".join(told)
