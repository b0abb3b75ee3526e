"""What the documents say of the code is looked up in the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from infra import __version__
from infra.cli.doctor import LEAST_GIT
from workers.git.command import OLDEST_GIT

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


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_file_that_is_named_exists() -> None:
    """In the pages for developers, by its path from the root."""
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "README.md").read_text()
    named = re.findall(r"`((?:agent_runtime|api|docs|infra|tests|workers)/[\w./*-]*)", text)
    assert named
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


def test_the_oldest_git_is_said_alike() -> None:
    assert LEAST_GIT == OLDEST_GIT
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"git {OLDEST_GIT[0]}.{OLDEST_GIT[1]} or later" in (ROOT / page).read_text()
