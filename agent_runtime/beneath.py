"""Opening files below the workspace, and nowhere else: not by `..`, not by an absolute path, not by a symlink.

Symlinks are followed by hand, one component at a time on directory descriptors, and every open refuses a
symlink. So a command that swaps a directory for a link at the wrong moment gets an error, not an escape.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

MAX_LINKS = 40
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OutsideError(OSError):
    """The path leads out of the workspace."""


class Place(NamedTuple):
    """A name in an open directory. It is no symlink, or was none a moment ago. The workspace itself is '.'.

    `path` leads there from the workspace, without symlinks: for messages, and for programs that take a path.
    """

    directory: int
    name: str
    path: str

    def open(self, flags: int, mode: int = 0o666) -> int:
        """Never waits (a FIFO would make it) and never follows a link."""
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self.name, flags, mode, dir_fd=self.directory)


@contextmanager
def locate(root: str, path: str, make_directories: bool = False) -> Iterator[Place]:
    """Find `path` below `root`. Raises OutsideError, or OSError as the file system says; the last name may be new."""
    trail = [os.open(root, DIRECTORY)]
    try:
        yield _walk(root, trail, path, make_directories)
    finally:
        for descriptor in trail:
            os.close(descriptor)


def _walk(root: str, trail: list[int], path: str, make_directories: bool) -> Place:
    """`trail` holds the directories from the root to where we are; `..` goes back on it."""
    todo = _components(root, path, path)
    names: list[str] = []
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if len(trail) == 1:
                raise OutsideError(f"{path} leads out of the workspace")
            os.close(trail.pop())
            names.pop()
            continue
        target = _link_target(name, trail[-1])
        if target is not None:
            links += 1
            if links > MAX_LINKS:
                raise OSError(f"{path} has too many symbolic links")
            if target.startswith("/"):
                while names:
                    os.close(trail.pop())
                    names.pop()
            todo += _components(root, target, path)
        elif todo:
            trail.append(_enter(name, trail[-1], make_directories))
            names.append(name)
        else:
            return Place(trail[-1], name, "/".join([*names, name]))
    return Place(trail[-1], ".", "/".join(names) or ".")


def _components(root: str, path: str, asked_for: str) -> list[str]:
    """Names in reverse order. An absolute path is fine when it names something below the root."""
    if path.startswith("/"):
        if path != root and not path.startswith(root + "/"):
            raise OutsideError(f"{asked_for} leads out of the workspace")
        path = path[len(root) :]
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _link_target(name: str, directory: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:  # no link, or nothing there: the next open says which
        return None


def _enter(name: str, directory: int, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=directory)
    return os.open(name, DIRECTORY, dir_fd=directory)
