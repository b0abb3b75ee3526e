"""docs/settings.md names every setting, with the default and the words that stand in the code, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.settings import OTHER_VARIABLES, Settings, unknown_variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/settings.md").read_text()
ROWS = {row[1]: row for row in re.finditer(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)}


def variable(field: str) -> str:
    return f"FARHAND_{field.upper()}"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_setting_is_documented(field: str) -> None:
    info = Settings.model_fields[field]
    default = info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default
    default = ",".join(default) if isinstance(default, tuple) else default
    shown = "-" if default in ("", None, ()) else f"`{default}`"
    assert ROWS[variable(field)][2] == shown
    assert ROWS[variable(field)][3] == info.description


def test_nothing_else_is_documented() -> None:
    assert set(ROWS) == {variable(field) for field in Settings.model_fields} | OTHER_VARIABLES


def test_every_variable_of_the_code_is_documented() -> None:
    """Also those that are read past the settings, and those that a hint tells people to set."""
    modules = [file for part in ("api", "infra", "workers") for file in (ROOT / part).rglob("*.py")]
    sources = [*modules, ROOT / "farhand"]
    named = {name for file in sources for name in re.findall(r"\bFARHAND_[A-Z_]*[A-Z]\b", file.read_text())}
    assert named - set(ROWS) == set()


def test_every_documented_variable_is_known() -> None:
    assert unknown_variables([*ROWS, "farhand_model", "ANTHROPIC_API_KEY", "PATH"]) == []


def test_a_mistyped_variable_is_told_with_what_was_meant() -> None:
    assert unknown_variables(["FARHAND_MODLE", "FARHAND_QQQ", "FARHAND_MODEL"]) == [
        "FARHAND_MODLE is set, but there is no such setting; did you mean FARHAND_MODEL?",
        "FARHAND_QQQ is set, but there is no such setting",
    ]
