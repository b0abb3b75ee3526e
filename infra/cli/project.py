"""`farhand project`: what a project gives its tasks, looked at and changed. A secret is never an argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from infra.cli.options import client_options
from infra.cli.output import json_option
from infra.cli.story import printable
from infra.client import Client
from infra.client.rest import Json
from infra.errors import InvalidInputError, NotFoundError

READABLE = (
    "the agent's commands, and code that they run, can read these secrets, and send them wherever the project's egress"
    " leads. They are masked in what you see, and are not shown again."
)
_PLAIN = ("id", "repo_url", "name", "egress", "pull_request", "image")


@click.command(name="project")
@click.argument("repo_url", metavar="REPO", required=False)
@click.option("--image", metavar="NAME", help="Image of its sandboxes; empty: the deployment's own.")
@click.option("--setup", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with a setup script.")
@click.option("--no-setup", is_flag=True, help="Take the setup script away.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable; NAME= takes it away.")
@click.option("--secret", "secrets", multiple=True, metavar="NAME", help="Set a secret: from $NAME, or typed in.")
@click.option("--no-secret", "gone", multiple=True, metavar="NAME", help="Take a secret away.")
@click.option("--egress", metavar="WORD", help="none, registries, open, or hosts separated by commas.")
@json_option
@client_options
def project(client: Client, repo_url: str | None, *, as_json: bool, **asked: Any) -> None:
    """List projects, or show the one of REPO; change it with options.

    A repository without a project gets one when there is something to change.
    """
    known = {one["repo_url"]: one for one in client.projects()}
    if repo_url is None:
        for one in known.values():
            click.echo(json.dumps(one, ensure_ascii=False) if as_json else printable(f"{one['id']}  {one['repo_url']}"))
        return
    found = known.get(repo_url.rstrip("/")) or known.get(repo_url)
    changes = _changes(found, **asked)
    if changes and found is not None:
        found = client.change_project(found["id"], **changes)
    elif changes:
        found = client.create_project(repo_url=repo_url, **changes)
    if found is None:
        raise NotFoundError(f"there is no project of {repo_url}", hint="`farhand project` lists yours.")
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else _shown(found))
    if changes.get("secrets"):
        click.echo(f"note: {READABLE}", err=True)


def _changes(found: Json | None, **asked: Any) -> Json:
    """What the options ask for. Raises InvalidInputError."""
    changes: Json = {}
    if asked["image"] is not None:
        changes["image"] = asked["image"] or None
    if asked["setup"] is not None:
        changes["setup_script"] = asked["setup"].read_text()
    elif asked["no_setup"]:
        changes["setup_script"] = None
    if asked["variables"]:
        changes["variables"] = _variables(dict(found["variables"]) if found else {}, asked["variables"])
    if asked["secrets"] or asked["gone"]:
        changes["secrets"] = {name: _secret(name) for name in asked["secrets"]} | dict.fromkeys(asked["gone"])
    if asked["egress"] is not None:
        word = asked["egress"]
        is_word = word in {"none", "registries", "open"}
        changes["egress"] = word if is_word else [host.strip() for host in word.split(",") if host.strip()]
    return changes


def _variables(variables: dict[str, str], assignments: tuple[str, ...]) -> dict[str, str]:
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidInputError(f"--var {name}: give NAME=VALUE")
        variables[name] = value
        if not value:
            del variables[name]
    return variables


def _secret(name: str) -> str:
    """From the environment, a pipe or the keyboard: arguments can be seen by every user of a machine."""
    if name in os.environ:
        return os.environ[name]
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    value: str = click.prompt(name, hide_input=True, err=True)
    return value


def _shown(project: Json) -> str:
    lines = [f"{name:14} {project[name] if project[name] is not None else '-'}" for name in _PLAIN]
    check = project["image_check"]
    if check is not None:
        why = f": {check['error']['message']} ({check['error']['code']})" if check["error"] else ""
        lines.append(f"{'image check':14} {check['state']}{why}")
    lines.append(f"{'variables':14} {', '.join(f'{n}={v}' for n, v in sorted(project['variables'].items())) or '-'}")
    lines.append(f"{'secrets':14} {', '.join(project['secret_names']) or '-'}")
    script = project["setup_script"]
    lines += ["setup script", *(f"  {line}" for line in script.splitlines())] if script else ["setup script   -"]
    return "\n".join(printable(line) for line in lines)
