"""`farhand project` against the API, as its user types it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from werkzeug.serving import make_server

from infra import cli
from infra.environment import environment_of
from infra.services import Services
from tests.integration.api.conftest import REPO, Person

VALUE = "a-value-of-the-tests"

Command = Callable[..., Result]


@pytest.fixture
def more_settings() -> dict[str, Any]:
    return {"image_check_wait": 0.0}


@pytest.fixture
def farhand(app: Flask, ada: Person) -> Iterator[Command]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    there = {"FARHAND_SERVER": f"http://127.0.0.1:{server.server_port}", "FARHAND_TOKEN": ada.token}

    def run(*arguments: str, given: str | None = None, **environment: str) -> Result:
        return CliRunner().invoke(cli.main, ["project", *arguments], input=given, env=there | environment)

    yield run
    server.shutdown()
    serving.join()
    server.server_close()


def test_a_project_is_made_shown_and_changed(farhand: Command, tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("make deps\nmake more\n")
    missing = farhand(REPO)
    assert missing.exit_code != 0
    assert f"there is no project of {REPO}" in missing.stderr
    made = farhand(REPO, "--setup", str(script), "--var", "A=1", "--var", "B=x=y", "--egress", "registries", "--json")
    assert made.exit_code == 0, made.stderr
    shown = json.loads(made.stdout)
    assert (shown["setup_script"], shown["variables"], shown["egress"]) == (
        "make deps\nmake more\n", {"A": "1", "B": "x=y"}, "registries",
    )  # fmt: skip
    changed = farhand(
        REPO, "--no-setup", "--var", "A=", "--var", "C=3", "--image", "python:3.12", "--egress", "a.b,c.d"
    )
    assert changed.exit_code == 0, changed.stderr
    lines = [line.rstrip() for line in changed.stdout.splitlines()]
    assert "image          python:3.12" in lines
    assert "image check    checking" in lines
    assert "variables      B=x=y, C=3" in lines
    assert "setup script   -" in lines
    assert farhand().stdout.endswith(f"  {REPO}\n")
    assert farhand(REPO, "--image", "").stdout.count("image check") == 0


def test_a_secret_is_no_argument_is_never_shown_and_its_readers_are_named(farhand: Command, services: Services) -> None:
    said = farhand(REPO, "--secret", "FROM_HERE", "--secret", "TYPED", given=f"{VALUE}-2\n", FROM_HERE=VALUE)
    assert said.exit_code == 0, said.stderr
    assert "secrets        FROM_HERE, TYPED" in said.stdout
    assert "can read these secrets" in said.stderr
    shown = farhand(REPO, "--json")
    assert VALUE not in said.output + shown.output
    assert "can read" not in shown.stderr
    project = json.loads(shown.stdout)
    with services.database.begin() as connection:
        kept = environment_of(connection, UUID(project["id"]), services.keys)
    assert kept.secrets == {"FROM_HERE": VALUE, "TYPED": f"{VALUE}-2"}
    assert json.loads(farhand(REPO, "--no-secret", "TYPED", "--json").stdout)["secret_names"] == ["FROM_HERE"]


def test_what_cannot_be_is_refused_with_what_to_do(farhand: Command) -> None:
    for arguments in (("--var", "A"), ("--var", "HOME=x"), ("--image", "Bad Image"), ("--secret", "SHORT")):
        said = farhand(REPO, *arguments, SHORT="1234")
        assert said.exit_code != 0
        assert "error: " in said.stderr
        assert "1234" not in said.output
    assert farhand().stdout == ""
