"""Stamps of a work tree: equal only where nothing changed, and none where that could not be told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_runtime import tree_stamp
from agent_runtime.checkout import checkout
from agent_runtime.sandbox_paths import Paths
from agent_runtime.snapshot import Snapshots
from tests.unit.runtime.conftest import Sandbox

DEADLINE_S = 30.0


def settled(root: Path) -> bytes:
    """The stamp of a tree once it is old enough to have one."""
    deadline = time.monotonic() + DEADLINE_S
    while (stamp := tree_stamp.take(str(root))) is None:
        assert time.monotonic() < deadline, "there is no stamp"
    return stamp


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("plain", "sub/deep/file", "sub/other", ".git/index"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("some text\n")
    (root / "link").symlink_to("plain")
    (root / "empty").mkdir()
    return root


def same_but_for_content(root: Path) -> None:
    path = root / "sub" / "deep" / "file"
    before = path.stat()
    path.write_text("other txt\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replaced(root: Path) -> None:
    (root / "new").write_text("other txt\n")
    (root / "new").replace(root / "plain")


def retargeted(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("other")


def a_file_now(root: Path) -> None:
    (root / "empty").rmdir()
    (root / "empty").touch()


CHANGES: dict[str, Callable[[Path], object]] = {
    "content, with size and mtime as they were": same_but_for_content,
    "written": lambda root: (root / "plain").write_text("other text of other length\n"),
    "another file in its place": replaced,
    "mode": lambda root: (root / "plain").chmod(0o755),
    "new file": lambda root: (root / "sub" / "new").touch(),
    "new empty directory": lambda root: (root / "sub" / "new").mkdir(),
    "file gone": lambda root: (root / "sub" / "deep" / "file").unlink(),
    "directory gone": lambda root: (root / "empty").rmdir(),
    "renamed": lambda root: (root / "sub").rename(root / "moved"),
    "link to elsewhere": retargeted,
    "directory that is a file now": a_file_now,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows(tree: Path, change: str) -> None:
    before = settled(tree)
    assert settled(tree) == before
    CHANGES[change](tree)
    assert settled(tree) != before


def test_the_agents_own_repository_is_not_looked_at(tree: Path) -> None:
    before = settled(tree)
    (tree / ".git" / "index").write_text("staged")
    (tree / ".git" / "index.lock").touch()
    assert settled(tree) == before


def test_what_changed_just_now_has_no_stamp(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_stamp, "GRAIN_NS", 3600 * 10**9)
    assert tree_stamp.take(str(tree)) is None


def test_a_tree_of_many_files_has_no_stamp(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tree)
    monkeypatch.setattr(tree_stamp, "MAX_ENTRIES", 7)
    settled(tree)
    (tree / "eighth").touch()
    monkeypatch.setattr(tree_stamp, "GRAIN_NS", 0)
    assert tree_stamp.take(str(tree)) is None


def test_a_directory_that_cannot_be_read_has_no_stamp(tree: Path) -> None:
    assert tree_stamp.take(str(tree / "nowhere")) is None


def test_no_git_runs_for_a_tree_that_did_not_change(sandbox: Sandbox) -> None:
    """The repository of the snapshots is taken away: git would fail."""
    sandbox.serve()
    paths, limits = Paths(str(sandbox.work), str(sandbox.objects)), sandbox.job["limits"]
    tree, _ = checkout(paths, sandbox.job["workspace"])
    snapshots = Snapshots(paths)
    snapshots.start_from(tree)
    settled(sandbox.repo)
    snapshots.vouch_for_index()
    away = Path(paths.snapshots).rename(sandbox.work / "away")
    assert snapshots.record(tree, limits) == (tree, b"", [], "")
    (sandbox.repo / "new").touch()
    assert snapshots.record(tree, limits).tree is None
    away.rename(paths.snapshots)
    assert snapshots.record(tree, limits).tree not in (None, tree)
