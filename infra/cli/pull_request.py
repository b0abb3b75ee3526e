"""`farhand pr`: ask for a task's pull request, and wait until there is one or it is said why not."""

from __future__ import annotations

import sys
import time
from uuid import UUID

import click

from infra.cli.errors import FAILED
from infra.cli.options import client_options
from infra.cli.output import json_option, print_json
from infra.cli.story import printable
from infra.client import Client
from infra.client.rest import Json

LOOK_S = 0.5


@click.command(name="pr")
@click.argument("task_id", type=click.UUID)
@click.option("--no-wait", is_flag=True, help="Ask for it and leave.")
@json_option
@client_options
def pr(client: Client, task_id: UUID, *, no_wait: bool, as_json: bool) -> None:
    """Open a task's pull request, or update it.

    Prints its address; with --json the task, whatever became of it. What it has to wait for, and what went wrong, is
    told on standard error. Ctrl-C leaves; it is opened all the same. Exit code: 0 it is there, 1 it is not.
    """
    task = client.request_pull_request(str(task_id))
    if no_wait:
        if as_json:
            print_json(task)
        return
    errors = _Errors(client, task)
    while task["pull_request_requested_at"] is not None:
        time.sleep(LOOK_S)
        errors.tell()
        task = client.task(task["id"])
        if task["pull_request_requested_at"] is not None:
            errors.last = None  # it is wanted still, so it will be tried again
    errors.tell()
    if as_json:
        print_json(task)
    if errors.last is not None or task["pull_request"] is None:
        sys.exit(FAILED)
    if not as_json:
        click.echo(printable(task["pull_request"]["url"]))


class _Errors:
    """Tells the `error` events that come from now on."""

    def __init__(self, client: Client, task: Json) -> None:
        self._client, self._id, self._seen = client, task["id"], task["last_seq"]
        self.last: Json | None = None

    def tell(self) -> None:
        for event in self._client.events(self._id, after=self._seen):
            self._seen = event["seq"]
            if event["type"] == "error":
                self.last = event["data"]
                click.echo(printable("{message} ({code})".format(**event["data"])), err=True)
