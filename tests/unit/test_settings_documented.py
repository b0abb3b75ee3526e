"""docs/settings.md names every setting, with the default and the words that stand in the code, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/settings.md").read_text()
ROWS = {row[1]: row for row in re.finditer(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)}
NOT_SETTINGS = {"FARHAND_DATA", "FARHAND_SERVER", "FARHAND_TOKEN", "FARHAND_PYTHON", "FARHAND_REQUIRE"}
"""What commands and tests read, not services."""


def variable(field: str) -> str:
    return f"FARHAND_{field.upper()}"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_setting_is_documented(field: str) -> None:
    info = Settings.model_fields[field]
    default = info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default
    shown = "-" if default in ("", None, ()) else f"`{default}`"
    assert ROWS[variable(field)][2] == shown
    assert ROWS[variable(field)][3] == info.description


def test_nothing_else_is_documented() -> None:
    assert set(ROWS) == {variable(field) for field in Settings.model_fields} | NOT_SETTINGS


def test_every_variable_of_the_code_is_documented() -> None:
    """Also those that are read past the settings, and those that a hint tells people to set."""
    modules = [file for part in ("api", "infra", "workers") for file in (ROOT / part).rglob("*.py")]
    sources = [*modules, ROOT / "farhand"]
    named = {name for file in sources for name in re.findall(r"\bFARHAND_[A-Z_]*[A-Z]\b", file.read_text())}
    assert named - set(ROWS) == set()
