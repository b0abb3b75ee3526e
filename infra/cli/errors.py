"""How errors look on the command line, and what a command exits with."""

from __future__ import annotations

import click

from infra.errors import ConfigurationError, FarhandError, InvalidInputError

FAILED = 1
USAGE = 2
CANCELLED = 130


def show(error: FarhandError) -> None:
    """`error: message (code)` and, below, what to do."""
    click.echo(f"error: {error.message} ({error.code})\n  {error.hint}", err=True)


def exit_code(error: FarhandError) -> int:
    """2 for what the caller can correct in the command or its environment, 1 for the rest."""
    return USAGE if isinstance(error, InvalidInputError | ConfigurationError) else FAILED
