"""Symlink races: a path that is swapped while it is walked gives an error or the right file, never another one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agent_runtime.beneath import OutsideError, locate

ROUNDS = 3000


def test_a_directory_that_is_swapped_for_a_link_is_no_way_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (root / "d" / "file").write_text("inside")
    (outside / "file").write_text("secret")
    (root / "link").symlink_to(outside)
    enough = threading.Event()

    def swap() -> None:
        while not enough.is_set():
            for source, target in (("d", "was_d"), ("link", "d"), ("d", "link"), ("was_d", "d")):
                os.rename(root / source, root / target)  # noqa: PTH104

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[str] = set()
    try:
        for _ in range(ROUNDS):
            try:
                with locate(str(root), "d/file") as place, os.fdopen(place.open(os.O_RDONLY)) as file:
                    seen.add(file.read())
            except OSError as error:
                seen.add(type(error).__name__)
    finally:
        enough.set()
        swapper.join()
    assert "inside" in seen
    assert "secret" not in seen


@pytest.mark.parametrize("target", ["../outside/file", "/etc/passwd"])
def test_a_last_name_that_becomes_a_link_is_not_followed(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("inside")
    with locate(str(root), "file") as place:
        (root / "file").unlink()
        (root / "file").symlink_to(target)
        with pytest.raises(OSError, match="symbolic"):
            place.open(os.O_RDONLY)


def test_the_way_is_told_without_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "short").symlink_to("a/b")
    with locate(str(tmp_path), "short/../b/./new") as place:
        assert (place.path, place.name) == ("a/b/new", "new")
    with locate(str(tmp_path), "a/..") as place:
        assert (place.path, place.name) == (".", ".")
    with pytest.raises(OutsideError), locate(str(tmp_path), "short/../../.."):
        pass
