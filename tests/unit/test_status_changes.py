"""One place writes what state a task is in and who owns it: `infra.tasks.transitions`. Looked up in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.tasks.states import Status

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "infra/tasks/transitions"
GUARDED = {"status", "lease_token"}
_SET = re.compile(r"update\s+tasks\b.*?\bset\b(.*?)(?:\bwhere\b|\bfrom\b|$)", re.IGNORECASE | re.DOTALL)
_INSERT = re.compile(r"insert\s+into\s+tasks\b", re.IGNORECASE)


def changes(source: str) -> list[int]:
    """Lines that give a task a status or an owner, as values of a statement or in SQL."""
    return sorted(node.lineno for node in _suspects(ast.parse(source)))


def _suspects(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        match node:
            case ast.Dict(keys=keys, values=values):
                yield from (value for key, value in zip(keys, values, strict=True) if _writes(_text(key), value))
            case ast.Call(func=ast.Attribute(attr="values"), keywords=keywords):
                yield from (one.value for one in keywords if one.arg and _writes(one.arg, one.value))
            case ast.Constant(value=str(text)):
                assigned = " ".join(_SET.findall(text))
                if _INSERT.search(text) or any(re.search(rf"\b{name}\s*=", assigned) for name in GUARDED):
                    yield node


def _text(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _writes(name: str, value: ast.expr) -> bool:
    """A `status` of something else, as of an HTTP answer, is none of a task's."""
    if name != "status":
        return name in GUARDED
    match value:
        case ast.Attribute(value=ast.Name(id="Status")):
            return True
        case ast.Constant(value=str(text)):
            return text in set(Status)
    return False


def test_nobody_else_changes_a_tasks_status_or_owner() -> None:
    modules = [path for part in ("infra", "api", "workers") for path in (ROOT / part).rglob("*.py")]
    others = [path for path in modules if PLACE not in path.parents]
    found = {str(path.relative_to(ROOT)): changes(path.read_text()) for path in others}
    engine = found.pop("workers/sandbox/docker.py")
    assert len(engine) == 1, "the engine's own filter by status"
    assert {path: lines for path, lines in found.items() if lines} == {}
    inside = [line for path in PLACE.glob("*.py") for line in changes(path.read_text())]
    assert len(inside) > 10


@pytest.mark.parametrize(
    "line",
    [
        'tx.advance(guard, values={"status": Status.FAILED})',
        'values = {"deaths": 1, "lease_token": None}',
        'connection.execute(update(Task).values(status="pending"))',
        "text('update tasks set deaths = 0, status = $1 where id = $2')",
        "text('insert into tasks (id) values (1)')",
    ],
)
def test_a_change_elsewhere_would_be_seen(line: str) -> None:
    assert changes(line)


@pytest.mark.parametrize(
    "line",
    [
        'return {"status": "ok"}',
        "text(\"update tasks set unread = 0 where lease_token = :token and status = 'running'\")",
        "select(Task.id).where(Task.status == Status.RUNNING)",
    ],
)
def test_a_look_is_no_change(line: str) -> None:
    assert changes(line) == []
