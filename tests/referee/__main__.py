"""`farhand chaos --tasks N --faults N --seed S [--json]`."""

from __future__ import annotations

import secrets
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from tests.referee.referee import Orders, choose_sandbox, referee
from tests.referee.report import as_line


@click.command(help=__doc__)
@click.option("--tasks", type=click.IntRange(0, 2000), default=30, show_default=True, help="Besides one a boundary.")
@click.option("--faults", type=click.IntRange(0, 5000), default=40, show_default=True, help="At random moments.")
@click.option("--seed", type=click.IntRange(0), help="Of an earlier run, to do it again. A new one unless given.")
@click.option("--sandbox", type=click.Choice(["auto", "docker", "local"]), default="auto", show_default=True)
@click.option("--lease-ttl", type=click.FloatRange(1, 60), default=10.0, show_default=True, help="Seconds.")
@click.option("--boundaries", type=click.Choice(["all", "each"]), default="all", show_default=True)
@click.option(
    "--keep-logs", "logs", type=click.Path(file_okay=False, path_type=Path), help="Copy the services' logs here."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the tables.")
def main(*, seed: int | None, sandbox: str, boundaries: str, as_json: bool, **given: Any) -> None:
    """Exit code 1 when anything is not as it must be."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, _interrupt)
    began = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"farhand chaos: {time.monotonic() - began:5.1f} s  {text}", err=True)

    chosen = secrets.randbelow(10**6) if seed is None else seed
    say(f"seed {chosen}")
    sandbox = choose_sandbox() if sandbox == "auto" else sandbox
    orders = Orders(seed=chosen, sandbox=sandbox, both=boundaries == "all", **given)
    report = referee(orders, say)
    click.echo(as_line(report) if as_json else report.as_text())
    sys.exit(bool(report.violations))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Once: whoever is impatient must not keep us from removing what we started."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
    click.echo("farhand chaos: stopping and removing everything …", err=True)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="farhand chaos")
