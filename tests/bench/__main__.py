"""`farhand bench [NAME …] [--json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import click

from tests.bench import accept, demo, dispatch, event, step
from tests.bench.figures import Figure

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "accept": accept.run,
    "dispatch": dispatch.run,
    "step": step.run,
    "event": event.run,
    "demo": demo.run,
}


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(sorted(BENCHMARKS)))
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each figure, one a line.")
def main(names: tuple[str, ...], *, as_json: bool) -> None:
    """Exit code 1 when a target is missed."""
    figures = []
    for name in names or tuple(BENCHMARKS):
        click.echo(f"farhand bench: {name} …", err=True)
        for figure in BENCHMARKS[name]():
            figures.append(figure)
            click.echo(json.dumps(figure.as_json()) if as_json else figure.as_text())
    sys.exit(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    main(prog_name="farhand bench")
