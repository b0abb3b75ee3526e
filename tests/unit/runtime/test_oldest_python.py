"""The runtime holds to Python 3.8, whichever interpreters this machine has: what came later is not in its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent_runtime
from workers.sandbox.project_images import OLDEST_PYTHON

SOURCES = sorted(Path(agent_runtime.__file__).parent.rglob("*.py"))
OF_THE_HOST = {"bundle.py"}
LATER = {
    "send_fds",
    "recv_fds",
    "removeprefix",
    "removesuffix",
    "pidfd_open",
    "waitstatus_to_exitcode",
    "is_relative_to",
}
BUILT_IN = {"dict", "frozenset", "list", "set", "tuple", "type"}


class Evaluated(ast.NodeVisitor):
    """All nodes of a module that are carried out: annotations are not, with the import that each module begins with."""

    def __init__(self) -> None:
        self.nodes: list[ast.AST] = []

    def generic_visit(self, node: ast.AST) -> None:
        self.nodes.append(node)
        for name, value in ast.iter_fields(node):
            if name not in {"annotation", "returns"}:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)


def what_came_later(source: str) -> Iterator[str]:
    module = ast.parse(source, feature_version=OLDEST_PYTHON)
    visitor = Evaluated()
    visitor.visit(module)
    generics = BUILT_IN | {
        alias.asname or alias.name
        for node in visitor.nodes
        if isinstance(node, ast.ImportFrom) and node.module in {"collections", "collections.abc", "re"}
        for alias in node.names
    }
    for node in visitor.nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in generics:
            yield f"line {node.lineno}: {node.value.id}[…]"
        if isinstance(node, ast.Attribute) and node.attr in LATER:
            yield f"line {node.lineno}: {node.attr}"
        if isinstance(node, ast.keyword) and node.arg in {"strict", "slots", "kw_only"}:
            yield f"line {node.lineno}: {node.arg}="


def test_the_oldest_is_3_8() -> None:
    assert OLDEST_PYTHON == (3, 8)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_needs_nothing_newer(path: Path) -> None:
    source = path.read_text()
    assert path.name in {"__init__.py", "__main__.py"} or "from __future__ import annotations" in source
    if path.name not in OF_THE_HOST:
        assert list(what_came_later(source)) == []


@pytest.mark.parametrize(
    "line",
    [
        "Message = dict[str, int]",
        "from collections.abc import Callable\nRead = Callable[[int], int]",
        "x = socket.send_fds",
    ],
)
def test_what_came_later_is_noticed(line: str) -> None:
    assert list(what_came_later(line))
