"""What the documents say of the code is looked up in the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from infra import __version__

ROOT = Path(__file__).parents[2]


def test_the_version_is_said_once() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"tests/[\w/]+\.py", (ROOT / "SECURITY.md").read_text())
    functions = re.findall(r"\btest_\w+\b(?!\.py)", (ROOT / "SECURITY.md").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
    sources = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    stems = {path.stem for path in ROOT.glob("tests/**/test_*.py")}
    assert [name for name in functions if f"def {name}(" not in sources and name not in stems] == []


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
