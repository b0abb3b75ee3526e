"""`farhand egress`: what a task's sandboxes connected to, and what they were refused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click
from rich.table import Table
from rich.text import Text

from infra.cli.options import client_options
from infra.cli.output import json_option, print_json, table_console
from infra.cli.story import printable
from infra.client import Client


@click.command(name="egress")
@click.argument("task_id", type=click.UUID)
@json_option
@client_options
def egress(client: Client, task_id: UUID, *, as_json: bool) -> None:
    """Show what a task connected to, refusals too."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("started", "try", "host", "decision", "how it ended", "sent", "received"):
        table.add_column(column, overflow="fold")
    for record in client.egress(str(task_id)):
        if as_json:
            print_json(record)
        else:
            table.add_row(*_row(record))
    if not as_json:
        nothing = "no connections: `egress` of the project says what is allowed"
        table_console().print(table if table.row_count else nothing)


def _row(record: dict[str, Any]) -> tuple[str | Text, ...]:
    refused = record["decision"] == "refused"
    host = f"{record['host']}:{record['port']}" if record["host"] else f"({record['connections']} requests)"
    return (
        record["started_at"][:19].replace("T", " "),
        str(record["attempt"]),
        Text(printable(host)),
        Text(record["decision"], style="red" if refused else "green"),
        record["reason"] or "open",
        f"{record['bytes_up']:,}",
        f"{record['bytes_down']:,}",
    )
