"""What a tool is: a name, a text and a schema for the model, and a function for the helper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Dict, NamedTuple

from agent_runtime.protocol import Limits
from agent_runtime.sandbox_paths import Paths

Args = Dict[str, Any]


class Output(NamedTuple):
    """What the model gets to read. `truncated`: there was more than the limit allows."""

    text: str
    is_error: bool = False
    truncated: bool = False


class ToolError(Exception):
    """The tool cannot do that; the message tells the model what would be right."""


class Context(NamedTuple):
    """What a tool's function works with. `time_left_s` is what the whole task has left.

    `proxy` is the address by which commands reach what the task may reach; empty when that is nothing.
    `environment` holds variables that commands get besides the sandbox's own.
    """

    paths: Paths
    limits: Limits
    time_left_s: float
    proxy: str = ""
    environment: dict[str, str] = {}  # noqa: RUF012  (never changed)


class Tool(NamedTuple):
    """`properties` and `required` are those of a JSON schema for an object without other keys."""

    name: str
    description: str
    properties: dict[str, dict[str, Any]]
    required: tuple[str, ...]
    run: Callable[[Context, Args], Output]
    changes_files: bool

    def definition(self) -> dict[str, Any]:
        """As the Messages API takes it."""
        schema = {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
            "additionalProperties": False,
        }
        return {"name": self.name, "description": self.description, "input_schema": schema}
