"""The command line `farhand`. Each command stands in a module of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from infra import __version__
from infra.cli import errors
from infra.errors import FarhandError

_COMMANDS = {
    "demo": "demo",
    "up": "up",
    "run": "tasks",
    "watch": "tasks",
    "tasks": "tasks",
    "show": "tasks",
    "diff": "tasks",
    "cancel": "tasks",
    "egress": "egress",
    "pr": "pull_request",
    "token": "token",
    "limits": "limits",
    "doctor": "doctor",
    "api": "services",
    "gateway": "services",
    "worker": "services",
    "migrate": "services",
    "image": "services",
    "test": "services",
    "bench": "services",
    "chaos": "services",
}
"""Command → module of this package that defines it, in the order of the help page."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"infra.cli.{_COMMANDS[cmd_name]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101  (the table above says so)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FarhandError as error:
            errors.show(error)
            sys.exit(errors.exit_code(error))
        except KeyboardInterrupt:
            click.echo("\nfarhand: interrupted", err=True)
            sys.exit(errors.CANCELLED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Send a coding task, watch an agent do it in a sandbox, get a branch.

    Start with `farhand demo`. `farhand up` runs a deployment on this machine, `farhand run` gives it a task.
    """
