"""`farhand bench [NAME …] [--json] [--tasks N]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial

import click

from tests.bench import accept, demo, density, dispatch, event, history, peer, recovery, sandbox, snapshot, step
from tests.bench.figures import Figure

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "accept": accept.run,
    "dispatch": dispatch.run,
    "step": step.run,
    "event": event.run,
    "demo": demo.run,
    "sandbox": sandbox.run,
    "snapshot": snapshot.run,
    "recovery": recovery.run,
}
PARTS: dict[str, Callable[[], list[Figure]]] = {"density": density.run, "history": history.run, "peer": peer.run}
"""Of `sandbox`, to be measured by themselves."""
SIZED = {"sandbox": sandbox.run, "density": density.run}


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(sorted(BENCHMARKS | PARTS)))
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each figure, one a line.")
@click.option("--tasks", default=density.TASKS, show_default=True, help="So many at a time in `density`.")
def main(names: tuple[str, ...], *, as_json: bool, tasks: int) -> None:
    """Exit code 1 when a target is missed."""
    figures = []
    for name in names or tuple(BENCHMARKS):
        click.echo(f"farhand bench: {name} …", err=True)
        measure = partial(SIZED[name], tasks) if name in SIZED else (BENCHMARKS | PARTS)[name]
        for figure in measure():
            figures.append(figure)
            click.echo(json.dumps(figure.as_json()) if as_json else figure.as_text())
    sys.exit(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    main(prog_name="farhand bench")
