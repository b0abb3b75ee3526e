"""What a task recorded that its pull request tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, func, select

from infra.settings import Settings
from infra.tables import Message, Patch, ToolCall
from infra.tasks.log import TaskRow

MAX_TEST_RUNS = 10
_LOOKED_AT = 500
"""Commands, newest first, among which test runs are looked for."""
_COMMAND_CHARS = 2000
_ENDING_CHARS = 200

# Programs whose business is to run tests, and runners of everything that are told to `test`.
_IS_TEST = re.compile(
    r"\b(?:py\.?test|unittest|doctest|tox|nox|jest|vitest|mocha|playwright|cypress|rspec|phpunit|ctest|nextest|gotestsum"
    r"|(?:go|cargo|npm|pnpm|yarn|bun|deno|make|ninja|mvnw?|gradlew?|rake|rails|mix|dotnet|swift|bazel|sbt|lein|zig|dart"
    r"|flutter|stack|cabal|just|composer|manage\.py)\b[^|;&\n]*?\b(?:test|tests|check))\b"
)
_ENDINGS = (
    (re.compile(r"\[exit code (\d+)\]\Z"), "exit code {}"),
    (re.compile(r"\[timeout: [^\]]*\]\Z"), "timed out"),
    (re.compile(r"\[killed by signal (\d+)[^\]]*\]\Z"), "killed by {}"),
)


@dataclass(frozen=True, slots=True)
class TestRun:
    """A command that runs tests. `as_pushed`: the files were then what they are now on the branch."""

    __test__ = False  # its name makes pytest curious

    command: str
    ending: str
    as_pushed: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """`summary` is the agent's last message; `link` leads to the task, empty where no address is known."""

    prompt: str
    summary: str
    steps: int
    spent_usd: Decimal
    tests: Sequence[TestRun]
    link: str


def collect(connection: Connection, task: TaskRow, settings: Settings) -> Facts:
    return Facts(
        prompt=task.prompt,
        summary=task.final_message or _last_message(connection, task.id),
        steps=task.last_step,
        spent_usd=task.spent_usd,
        tests=_test_runs(connection, task.id),
        link=f"{settings.public_url.rstrip('/')}/tasks/{task.id}" if settings.public_url else "",
    )


def is_test(command: str) -> bool:
    """Whether a command line runs tests, as far as its words tell."""
    return _IS_TEST.search(command) is not None


def _last_message(connection: Connection, task_id: UUID) -> str:
    """While the attempt ends, its final message stands in no other place yet."""
    query = (
        select(Message.text)
        .where(Message.task_id == task_id, Message.role == "assistant")
        .order_by(Message.id.desc())
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none() or ""


def _test_runs(connection: Connection, task_id: UUID) -> list[TestRun]:
    """The newest few, in order."""
    pushed = connection.execute(select(Patch.tree).where(Patch.task_id == task_id)).scalar_one_or_none()
    rows = connection.execute(
        select(
            func.left(ToolCall.input["command"].astext, _COMMAND_CHARS).label("command"),
            func.right(ToolCall.output, _ENDING_CHARS).label("ending"),
            ToolCall.tree,
        )
        .where(ToolCall.task_id == task_id, ToolCall.tool_name == "run_command")
        .order_by(ToolCall.step.desc(), ToolCall.index.desc())
        .limit(_LOOKED_AT)
    )
    runs = [TestRun(row.command, _ending(row.ending), row.tree == pushed) for row in rows if is_test(row.command or "")]
    return runs[:MAX_TEST_RUNS][::-1]


def _ending(output: str | None) -> str:
    """The last line of run_command's output is its own, whatever the command printed."""
    for pattern, told in _ENDINGS if output else ():
        if found := pattern.search(output or ""):
            return told.format(*found.groups())
    return "unknown end"
