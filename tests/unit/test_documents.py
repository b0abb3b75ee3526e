"""What the documents say of the code is looked up in the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click import Context

from infra import __version__
from infra.cli import main
from infra.cli.doctor import LEAST_GIT
from tests.security.local import GETS_THROUGH, NOT_TRIED
from workers.git.command import OLDEST_GIT

ROOT = Path(__file__).parents[2]


def test_the_version_is_said_once() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_every_test_that_the_security_page_names_exists() -> None:
    """`file.py::test_name`, or `::test_name` for one more of the file that was named before it."""
    page, file, missing, count = (ROOT / "SECURITY.md").read_text(), "", [], 0
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", page):
        if not path and not name:
            continue
        file = path or file
        source = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
        count += 1
        if not source or (name and f"def {name}(" not in source):
            missing.append(f"{file}::{name}")
    assert missing == []
    assert count > 50
    assert len(re.findall(r"\btest_\w+", page)) <= 2 * count, "a test is named in a form that is not looked up"


def test_the_security_page_lists_what_local_does_not_stop() -> None:
    page = (ROOT / "SECURITY.md").read_text().partition("### What `local` does not stop")[2].partition("\n#")[0]
    listed = set(re.findall(r"^- (.+)$", page, re.MULTILINE))
    tried, untried = (set(table.values()) for table in (GETS_THROUGH, NOT_TRIED))
    assert listed == {f"{what} (tried)" for what in tried} | untried
    tests = "".join(path.read_text() for path in (ROOT / "tests/security").glob("test_*.py"))
    assert [name for name in GETS_THROUGH | NOT_TRIED if f"def {name}(" not in tests] == []


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


def test_every_decision_is_in_the_index() -> None:
    directory = ROOT / "docs/decisions"
    titles = {path.name: path.read_text().partition("\n")[0] for path in sorted(directory.glob("[0-9]*.md"))}
    assert all(title.startswith(f"# {int(name[:4])}. ") for name, title in titles.items())
    index = (directory / "README.md").read_text()
    listed = re.findall(r"^- \[(\d+\. .+)\]\((.+)\)$", index, re.MULTILINE)
    assert listed == [(title.removeprefix("# "), name) for name, title in titles.items()]


def test_the_settings_page_names_every_command_that_talks_to_a_server() -> None:
    (row,) = re.findall(r"^\| `FARHAND_SERVER` .+$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    commands = [main.get_command(Context(main), name) for name in main.list_commands(Context(main))]
    talkers = [command.name for command in commands if command and any(p.name == "server" for p in command.params)]
    assert talkers
    assert [name for name in talkers if f"`{name}`" not in row] == []


def test_the_oldest_git_is_said_alike() -> None:
    assert LEAST_GIT == OLDEST_GIT
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"git {OLDEST_GIT[0]}.{OLDEST_GIT[1]} or later" in (ROOT / page).read_text()
