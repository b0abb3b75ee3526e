"""What commands print on standard output: tables for a person, or JSON for scripts."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

PIPE_COLUMNS = 500
"""Wide enough that nothing a script might look for is cut or folded."""

json_option = click.option("--json", "as_json", is_flag=True, help="JSON for scripts, one object a line.")


def print_json(value: Any) -> None:
    """One value on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def table_console() -> Console:
    """Standard output; where that is no terminal, lines are as long as they are."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)
