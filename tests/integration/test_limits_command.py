"""`farhand limits`: what an operator reads and changes while the deployment runs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from infra import cli
from tests.world import World


@pytest.fixture
def email(world: World) -> str:
    with world.services.database.begin() as connection:
        connection.execute(text("update users set email = 'Ada@example.com' where id = :id"), {"id": world.user_id})
    return "ada@example.com"


def farhand(world: World, *arguments: str) -> Result:
    environment = {"FARHAND_DATABASE_URL": world.services.settings.database_url}
    return CliRunner().invoke(cli.main, ["limits", *arguments], env=environment, prog_name="farhand")


def test_limits_are_shown_changed_and_taken_away(world: World, email: str) -> None:
    nothing = "tasks           none\ntasks per user  none (FARHAND_MAX_CONCURRENT_TASKS)\n"
    assert farhand(world).output == nothing
    changed = farhand(world, "--tasks", "20", "--tasks-per-user", "0", "--user", email, "8")
    assert changed.output == "tasks           20\ntasks per user  0\nAda@example.com  8\n"
    taken = farhand(world, "--tasks", "none", "--tasks-per-user", "none", "--user", email, "none")
    assert taken.output == nothing


@pytest.mark.parametrize("wrong", ["-1", "many", "1.5", "9999999999"])
def test_what_is_no_number_is_refused(world: World, wrong: str) -> None:
    for arguments in (("--tasks", wrong), ("--user", "ada@example.com", wrong)):
        said = farhand(world, *arguments)
        assert said.exit_code == 2
        assert "none" in said.stderr
    assert "none" in farhand(world).output.splitlines()[0]


def test_a_user_who_is_not_there(world: World) -> None:
    said = farhand(world, "--user", "eve@example.com", "3")
    assert said.exit_code == 1
    assert "there is no user eve@example.com" in said.stderr
