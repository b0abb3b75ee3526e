"""read_file, write_file, edit_file, list_files, search_files; and that no path leaves the workspace."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.runtime.conftest import Sandbox
from tests.unit.runtime.linkserver import says, tool_use

CallTool = Callable[..., dict[str, Any]]
FILE_TOOLS = {
    "read_file": {},
    "write_file": {"content": "x"},
    "edit_file": {"old": "root", "new": "x"},
    "list_files": {},
    "search_files": {"pattern": "."},
}


def lines(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(1, count + 1))


def test_a_range_of_lines_is_read(sandbox: Sandbox, call: CallTool) -> None:
    (sandbox.origin / "long").write_text(lines(100))
    output = call("read_file", path="long", start_line=3, end_line=4)["output"]
    assert output == "     3\tline 3\n     4\tline 4\n"


def test_a_long_file_is_read_in_pieces(sandbox: Sandbox, call: CallTool) -> None:
    (sandbox.origin / "long").write_text(lines(10_000))
    result = call("read_file", {"output_bytes": 2000}, path="long")
    assert result["truncated"]
    shown = result["output"].splitlines()
    assert len(result["output"]) < 2200
    assert shown[-1] == f"[lines {len(shown)} to 10000 follow: go on with start_line {len(shown)}]"


def test_one_line_longer_than_the_limit_is_cut(sandbox: Sandbox, call: CallTool) -> None:
    (sandbox.origin / "minified.js").write_text("x" * 500_000)
    result = call("read_file", path="minified.js")
    assert len(result["output"]) < 21_000
    assert "bytes cut" in result["output"]


@pytest.mark.parametrize(
    ("content", "args", "expected"),
    [
        (b"", {}, "[the file is empty]"),
        (b"a\nb", {"start_line": 3}, "t has 2 lines; start_line 3 is beyond its end."),
        (b"a\nb", {"start_line": 2, "end_line": 1}, "end_line 1 comes before start_line 2."),
        (b"a\x00b", {}, "t is not a text file (3 bytes). Look at it with run_command: file, xxd, …"),
        (b"caf\xe9\n", {}, "     1\tcaf\ufffd\n"),
        (b"a\r\nb\r\n", {}, "     1\ta\r\n     2\tb\r\n"),
    ],
)
def test_unusual_files(sandbox: Sandbox, call: CallTool, content: bytes, args: dict[str, int], expected: str) -> None:
    (sandbox.origin / "t").write_bytes(content)
    assert call("read_file", path="t", **args)["output"] == expected


def test_a_file_is_written_with_its_directories_and_keeps_its_mode(sandbox: Sandbox) -> None:
    (sandbox.origin / "run.sh").write_text("old")
    (sandbox.origin / "run.sh").chmod(0o755)
    server = sandbox.run(
        says(
            tool_use("write_file", path="a/b/c.txt", content="new ü\n"),
            tool_use("write_file", path="run.sh", content="#!/bin/sh\n"),
            tool_use("write_file", path="a", content="x"),
        ),
        says("Done."),
    )
    assert server.outputs[0] == "Wrote a/b/c.txt (7 bytes)."
    assert server.outputs[1] == "Replaced run.sh (10 bytes)."
    assert server.results[2]["is_error"]
    assert (sandbox.repo / "a/b/c.txt").read_text() == "new ü\n"
    assert os.access(sandbox.repo / "run.sh", os.X_OK)
    assert sorted(path.name for path in sandbox.repo.iterdir()) == [".git", "a", "hello.py", "run.sh"]


@pytest.mark.parametrize(
    ("old", "new", "says_what"),
    [
        ("    return a - b\n", "x", "occurs 2 times"),
        ("return a-b", "x", "The nearest to its first line is line 2:\n    return a - b"),
        ("def sub(a, b):\nreturn a - b", "x", "with other white space it is, at line 1:\ndef sub(a, b):"),
        ("zzzzzzzzzz", "x", "nor anything like it"),
        ("", "x", "`old` is empty"),
        ("def", "def", "the same"),
    ],
)
def test_an_edit_that_is_not_exact_and_unique_says_why(
    sandbox: Sandbox, call: CallTool, old: str, new: str, says_what: str
) -> None:
    source = "def sub(a, b):\n    return a - b\n\ndef other(a, b):\n    return a - b\n"
    (sandbox.origin / "m.py").write_text(source)
    result = call("edit_file", path="m.py", old=old, new=new)
    assert result["is_error"]
    assert says_what in result["output"]
    assert (sandbox.repo / "m.py").read_text() == source


def test_an_edit_keeps_every_other_byte(sandbox: Sandbox, call: CallTool) -> None:
    (sandbox.origin / "mixed").write_bytes(b"caf\xe9\r\nold\r\n\x0c\n")
    call("edit_file", path="mixed", old="old\r\n", new="new\r\n")
    assert (sandbox.repo / "mixed").read_bytes() == b"caf\xe9\r\nnew\r\n\x0c\n"


@pytest.mark.parametrize("tool", FILE_TOOLS)
@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "to_etc/passwd", "a/../../secret", "up/secret", "loop"])
def test_no_path_leads_out_of_the_workspace(sandbox: Sandbox, call: CallTool, tool: str, path: str) -> None:
    (sandbox.work / "secret").write_text("root of all evil")
    (sandbox.work / "secret").chmod(0o666)
    (sandbox.origin / "a").mkdir()
    (sandbox.origin / "a" / "file").write_text("x")
    (sandbox.origin / "to_etc").symlink_to("/etc")
    (sandbox.origin / "up").symlink_to("..")
    (sandbox.origin / "loop").symlink_to("loop")
    result = call(tool, path=path, **FILE_TOOLS[tool])
    assert result["is_error"], result
    assert "root" not in result["output"]
    assert (sandbox.work / "secret").read_text() == "root of all evil"


def test_links_inside_the_workspace_and_its_absolute_path_are_fine(sandbox: Sandbox) -> None:
    (sandbox.origin / "src").mkdir()
    (sandbox.origin / "src" / "m.py").write_text("x = 1\n")
    (sandbox.origin / "alias").symlink_to("src/../src/m.py")
    (sandbox.origin / "lib").symlink_to("src")
    server = sandbox.run(
        says(
            tool_use("read_file", path="alias"),
            tool_use("edit_file", path="lib/m.py", old="1", new="2"),
            tool_use("read_file", path=f"{sandbox.repo}/src/m.py"),
            tool_use("search_files", pattern="x", path="lib"),
        ),
        says("Done."),
    )
    assert server.outputs[0] == "     1\tx = 1\n"
    assert server.outputs[2] == "     1\tx = 2\n"
    assert server.outputs[3] == "src/m.py:1:x = 2\n"
    assert (sandbox.repo / "lib").is_symlink()


@pytest.mark.parametrize("kind", ["directory", "fifo", "nothing"])
def test_what_is_no_regular_file_is_refused_without_waiting(sandbox: Sandbox, kind: str) -> None:
    make = {"directory": "mkdir t", "fifo": "mkfifo t", "nothing": "true"}[kind]
    server = sandbox.run(says(tool_use("run_command", command=make), tool_use("read_file", path="t")), says("Done."))
    assert server.results[1]["is_error"]
    expected = {"directory": "is a directory", "fifo": "not a regular file", "nothing": "No such file"}[kind]
    assert expected in server.outputs[1]


@pytest.fixture
def tree(sandbox: Sandbox) -> Sandbox:
    (sandbox.origin / ".gitignore").write_text("build/\n")
    for name in ("src/a.py", "src/deep/b.py", "src/c.txt"):
        (sandbox.origin / name).parent.mkdir(parents=True, exist_ok=True)
        (sandbox.origin / name).write_text(f"needle in {name}\n")
    return sandbox


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, [".gitignore", "hello.py", "new.py", "src/a.py", "src/c.txt", "src/deep/b.py"]),
        ({"path": "src"}, ["src/a.py", "src/c.txt", "src/deep/b.py"]),
        ({"pattern": "*.py"}, ["hello.py", "new.py", "src/a.py", "src/deep/b.py"]),
        ({"path": "src", "pattern": "*.py"}, ["src/a.py", "src/deep/b.py"]),
        ({"pattern": "src/*.py"}, ["src/a.py"]),
        ({"path": "build"}, ["build/out.o"]),
        ({"path": "src/a.py"}, ["src/a.py"]),
        ({"pattern": "*.rs"}, ["There are no files like *.rs in '.'."]),
    ],
)
def test_files_are_listed_without_ignored_ones(tree: Sandbox, args: dict[str, str], expected: list[str]) -> None:
    make = "mkdir build; echo needle > build/out.o; touch new.py"
    server = tree.run(says(tool_use("run_command", command=make), tool_use("list_files", **args)), says("Done."))
    assert server.outputs[1].splitlines() == expected


@pytest.mark.parametrize("with_ripgrep", [True, False])
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"pattern": "need.e"}, ["src/a.py:1:needle in src/a.py", "src/c.txt:1:needle in src/c.txt"]),
        ({"pattern": "needle", "path": "src/c.txt"}, ["src/c.txt:1:needle in src/c.txt"]),
        ({"pattern": "needle", "glob": "*.txt"}, ["src/c.txt:1:needle in src/c.txt"]),
        ({"pattern": "--files"}, ["Nothing in '.' matches '--files'."]),
        ({"pattern": "("}, None),
    ],
)
def test_contents_are_searched(
    tree: Sandbox, args: dict[str, str], expected: list[str] | None, with_ripgrep: bool
) -> None:
    if not with_ripgrep:
        tree.path = tree.make_path_of("git", "mkdir", "rm")
    make = "mkdir build; echo needle > build/out.o; rm -r src/deep"
    server = tree.run(says(tool_use("run_command", command=make), tool_use("search_files", **args)), says("Done."))
    if expected is None:
        assert server.results[1]["is_error"]
    else:
        assert server.outputs[1].splitlines() == expected


def test_a_search_with_very_many_hits_is_bounded(sandbox: Sandbox, call: CallTool) -> None:
    (sandbox.origin / "many").write_text("needle\n" * 100_000)
    result = call("search_files", pattern="needle")
    assert result["truncated"]
    assert len(result["output"]) < 21_000
