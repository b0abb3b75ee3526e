"""Commands of a user: send a task, watch it, look at it, cancel it."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.cli.options import client_options
from infra.cli.output import json_option, print_json, table_console
from infra.cli.screen import PlainScreen, screen
from infra.cli.story import diff_lines, printable
from infra.cli.watching import show_diff, watch_task
from infra.client import Client
from infra.errors import FarhandError
from infra.tasks.states import TERMINAL, Status

_STATUS_STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}

event_lines_option = click.option(
    "--json", "as_json", is_flag=True, help="One event a line on standard output, nothing else."
)


@click.command(name="run")
@click.argument("prompt")
@click.option("--repo", "repo_url", required=True, metavar="URL", help="Git repository to work on.")
@click.option("--base-branch", help="Branch to start from (default: the repository's default branch).")
@click.option("--model", help="Model alias, full name, or replay:<recording> (default: the deployment's).")
@click.option("--budget", "budget_usd", type=click.FloatRange(min=0, min_open=True), help="US dollars it may cost.")
@event_lines_option
@click.option("--no-wait", is_flag=True, help="Send it and leave.")
@client_options
def run(client: Client, *, as_json: bool, no_wait: bool, **task: Any) -> None:
    """Send the task PROMPT and watch it being done.

    Ctrl-C asks for the task to be cancelled; once more leaves. Exit code: 0 completed, 1 failed, 2 wrong usage,
    130 cancelled or left.
    """
    sent = client.submit(**task)
    if no_wait:
        if as_json:
            print_json(sent)
        else:
            click.echo(f"{sent['id']}\nfarhand watch {sent['id']}")
        return
    _watch(client, sent["id"], as_json=as_json, cancels=True)


@click.command(name="watch")
@click.argument("task_id", type=click.UUID)
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only events after this number.")
@event_lines_option
@client_options
def watch(client: Client, task_id: UUID, *, after: int, as_json: bool) -> None:
    """Watch a task from its beginning until it ends.

    Ctrl-C leaves; the task goes on. Exit code: 0 completed, 1 failed, 2 wrong usage, 130 cancelled or left.
    """
    _watch(client, str(task_id), as_json=as_json, cancels=False, after=after)


@click.command(name="tasks")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--status", type=click.Choice([status.value for status in Status]), help="Only those in this state.")
@json_option
@client_options
def tasks(client: Client, *, limit: int, status: str | None, as_json: bool) -> None:
    """List your tasks, newest first."""
    found = client.tasks(limit=limit, status=status)
    if as_json:
        for task in found:
            print_json(task)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, least in (("id", 36), ("status", 9), ("created", 16), ("cost", 5), ("prompt", None)):
        table.add_column(column, no_wrap=True, min_width=least)  # a narrow terminal cuts the prompt, never the id
    for task in found:
        table.add_row(
            task["id"],
            _status(task),
            task["created_at"][:16].replace("T", " "),
            f"${task['spent_usd']:.2f}",
            Text(" ".join(printable(task["prompt"]).split())),
        )
    table_console().print(table if found else "no tasks yet: farhand run --repo URL PROMPT")


@click.command(name="show")
@click.argument("task_id", type=click.UUID)
@json_option
@client_options
def show(client: Client, task_id: UUID, *, as_json: bool) -> None:
    """Show one task: state, branch, cost, last words."""
    task = client.task(str(task_id))
    if as_json:
        print_json(task)
        return
    console = table_console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name in ("id", "status", "repo_url", "prompt", "model", "base_branch", "branch", "head_sha", "attempt"):
        table.add_row(name, _status(task) if name == "status" else Text(printable(task[name] or "-")))
    if task["pull_request"]:
        table.add_row("pull_request", Text(printable(task["pull_request"]["url"])))
    table.add_row("cost", f"${task['spent_usd']:.4f} of ${task['budget_usd']:.2f}")
    for name in ("created_at", "started_at", "completed_at"):
        table.add_row(name, task[name] or "-")
    if task["error"]:
        table.add_row("error", Text(printable("{message} ({code})\n{hint}".format(**task["error"])), style="red"))
    console.print(table)
    if task["final_message"]:
        console.print(Text(f"\n{printable(task['final_message'])}"), soft_wrap=not console.is_terminal)


@click.command(name="diff")
@click.argument("task_id", type=click.UUID)
@json_option
@client_options
def diff(client: Client, task_id: UUID, *, as_json: bool) -> None:
    """Print what a task changed, as a unified diff.

    `farhand diff ID | git apply` brings it into a checkout. With --json it comes with its figures and commits.
    """
    if as_json:
        print_json(client.diff_and_figures(str(task_id)))
        return
    text = client.diff(str(task_id))
    console = Console(highlight=False)
    if not console.is_terminal:
        click.echo(text, nl=False)  # as it is, for git
        return
    for line in diff_lines(text):
        console.print(line, soft_wrap=True)


@click.command(name="cancel")
@click.argument("task_id", type=click.UUID)
@json_option
@client_options
def cancel(client: Client, task_id: UUID, *, as_json: bool) -> None:
    """Cancel a task. The work so far is kept."""
    task = client.cancel(str(task_id))
    if as_json:
        print_json(task)
    else:
        click.echo(f"{task_id} {_after_cancel(task)}")


def _after_cancel(task: dict[str, Any]) -> str:
    if task["status"] not in TERMINAL:
        return "is being cancelled"
    never_ran = task["status"] == Status.CANCELLED and task["started_at"] is None
    return "cancelled: it had not begun, nothing had to be stopped" if never_ran else str(task["status"])


def _watch(client: Client, task_id: str, *, as_json: bool, cancels: bool, after: int = 0) -> None:
    shown = screen(as_json=as_json)
    code = watch_task(client, task_id, shown, after=after, cancels=cancels)
    if isinstance(shown, PlainScreen):
        try:
            show_diff(client, task_id, shown)
        except FarhandError as error:
            shown.note(f"there is no diff: {error.message}")
    sys.exit(code)


def _status(task: dict[str, Any]) -> Text:
    return Text(task["status"], style=_STATUS_STYLES.get(task["status"], ""))
