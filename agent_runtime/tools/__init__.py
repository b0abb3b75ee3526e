"""The tools that an agent definition can name. A new one is a function and an entry here."""

from __future__ import annotations

from typing import Any

from agent_runtime.tools.arguments import problem_with
from agent_runtime.tools.command import RUN_COMMAND
from agent_runtime.tools.files import EDIT_FILE, READ_FILE, WRITE_FILE
from agent_runtime.tools.search import LIST_FILES, SEARCH_FILES
from agent_runtime.tools.specification import Output, Tool, ToolError

__all__ = ["TOOLS", "Output", "Tool", "ToolError", "refusal"]

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (READ_FILE, WRITE_FILE, EDIT_FILE, LIST_FILES, SEARCH_FILES, RUN_COMMAND)
}


def refusal(name: str, args: Any, allowed: list[str]) -> Output | None:
    """What the model is told when a call cannot even be tried; None when it can."""
    if name not in TOOLS or name not in allowed:
        return Output(f"There is no tool {name!r}. The tools are: {', '.join(allowed)}.", is_error=True)
    if not isinstance(args, dict):
        return Output(f"{name} was not called: its arguments must be an object.", is_error=True)
    problem = problem_with(TOOLS[name], args)
    return Output(problem, is_error=True) if problem else None
