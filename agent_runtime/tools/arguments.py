"""Checks a call's arguments against the tool's schema, and says what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent_runtime.tools.specification import Args, Tool

_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}


def problem_with(tool: Tool, args: Args) -> str | None:
    """None when the arguments fit."""
    problems = list(_problems(tool, args))
    if not problems:
        return None
    expected = ", ".join(
        f"{name}: {schema['type']}{'' if name in tool.required else ' (optional)'}"
        for name, schema in tool.properties.items()
    )
    return f"{tool.name} was not called: {'; '.join(problems)}. It takes {{{expected}}}."


def _problems(tool: Tool, args: Args) -> Iterator[str]:
    for name in tool.required:
        if name not in args:
            yield f"`{name}` is missing"
    for name, value in args.items():
        if name not in tool.properties:
            yield f"there is no argument `{name}`"
        else:
            yield from _problems_of(name, value, tool.properties[name])


def _problems_of(name: str, value: Any, schema: dict[str, Any]) -> Iterator[str]:
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"`{name}` must be of type {kind}, not {type(value).__name__}"
    elif "minimum" in schema and value < schema["minimum"]:
        yield f"`{name}` must be at least {schema['minimum']}, not {value}"
    elif isinstance(value, str) and not _is_sendable(value):
        yield f"`{name}` holds characters that no file or command can hold (NUL or a half surrogate pair)"


def _is_sendable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
