"""Records the work tree after a tool call: a git tree, and a pack of what it has over the tree before.

Everything happens in a private repository, which the workspace does not configure: no hooks, no filters, no
`.git/config` of the agent's. Files that git ignores are not recorded. Left out, and named, are files that are too
big, unreadable ones, and repositories inside the workspace.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from agent_runtime import tree_stamp
from agent_runtime.git import Git, GitError, message_of
from agent_runtime.protocol import Limits
from agent_runtime.sandbox_paths import Paths

GITLINK = "160000"
MAX_NAMED = 20
"""So many left-out paths are named; the rest is counted."""


class Recorded(NamedTuple):
    """`note` is for the model: empty, or what it must know about what was not recorded."""

    tree: str | None
    pack: bytes
    left_out: list[str]
    note: str


class Changed(NamedTuple):
    """A path that differs from the last snapshot. Directories (repositories of their own) end in a slash."""

    path: bytes
    tracked: bool
    submodule: bool


class PackTooBig(Exception):
    """What changed does not fit into the limit of one call."""


def snapshot_git(paths: Paths) -> Git:
    return Git(paths.snapshots, paths.repo, paths.environment())


class Snapshots:
    """Keeps between calls what has been left out already, so that the model is told once."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._git = snapshot_git(paths)
        self._index_tree: str | None = None
        # Of the work tree when it was last found to be as the index, or before.
        self._stamp: bytes | None = None
        self._told: set[str] = set()
        self._too_much: set[bytes] = set()
        self._remove_stale_locks()

    def start_from(self, tree: str) -> None:
        """The index was just made from this tree, by the checkout."""
        self._index_tree, self._stamp = tree, None

    def vouch_for_index(self) -> None:
        """Called while nothing has touched the workspace since the checkout: the index is true as of now.

        Git compares contents of all files that are as new as the index; after a checkout, that is every file.
        """
        with suppress(FileNotFoundError):  # an empty tree has none
            os.utime(os.path.join(self._paths.snapshots, "index"))
        self._stamp = tree_stamp.take(self._paths.repo)

    def record(self, parent: str, limits: Limits) -> Recorded:
        """When the workspace cannot be recorded, `tree` is None and the note says why.

        Raises only BlockingIOError, when there are no more processes.
        """
        os.makedirs(self._paths.repo, exist_ok=True)
        if self._index_tree != parent:  # a helper that was killed may have got further than its answer
            self._rebuild_index(parent)
            self._stamp = None
        stamp = tree_stamp.take(self._paths.repo)
        if stamp is not None and stamp == self._stamp:
            return Recorded(parent, b"", [], "")
        self._index_tree = self._stamp = None
        try:
            recorded = self._record(parent, limits)
        except BlockingIOError:
            raise
        except (GitError, OSError) as error:
            return _unrecorded(str(error))
        except PackTooBig:
            return _unrecorded(f"they are more than {limits['pack_bytes']} bytes")
        self._index_tree = recorded.tree
        if not recorded.note:  # with nothing left to be told, and nothing to be tried again
            self._stamp = stamp
        return recorded

    def _record(self, parent: str, limits: Limits) -> Recorded:
        changed = list(self._changes())
        left_out = self._left_out(changed, limits)
        if all(self._is_in(left_out, c.path) for c in changed):
            return Recorded(parent, b"", *self._tell(left_out))
        try:
            tree, trouble = self._add(left_out)
            pack = self._pack(parent, tree, limits["pack_bytes"])
        except PackTooBig:
            self._rebuild_index(parent)
            self._leave_out_most([c for c in changed if not c.tracked and c.path not in left_out], limits)
            left_out = self._left_out(changed, limits)
            tree, trouble = self._add(left_out)
            pack = self._pack(parent, tree, limits["pack_bytes"])
        names, note = self._tell(left_out)
        return Recorded(tree, pack, names, note + trouble)

    def _changes(self) -> Iterator[Changed]:
        """What differs from the index, which is the last snapshot."""
        status = self._git(
            "status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty"
        )
        for line in status.split(b"\0"):
            if line.startswith(b"? "):
                yield Changed(line[2:], tracked=False, submodule=line.endswith(b"/"))
            elif line.startswith(b"1 ") and line[3:4] != b".":
                path = line.split(b" ", 8)[8]
                yield Changed(path, tracked=True, submodule=line[5:6] == b"S" and line[3:4] != b"D")

    def _left_out(self, changed: list[Changed], limits: Limits) -> dict[bytes, str]:
        """Paths, or whole directories with a slash, and why they cannot be recorded."""
        reasons = dict.fromkeys(self._too_much, "too much in all")
        reasons.update({c.path: self._why_left_out(c, limits) for c in changed if not self._is_in(reasons, c.path)})
        return {path: why for path, why in reasons.items() if why}

    def _why_left_out(self, changed: Changed, limits: Limits) -> str:
        """Empty when it can be recorded."""
        if changed.submodule:
            return "a git repository of its own; remove its .git to keep its files"
        try:
            status = os.lstat(self._absolute(changed.path))
        except OSError:  # deleted
            return ""
        if stat.S_ISREG(status.st_mode) and status.st_size > limits["file_bytes"]:
            return f"{status.st_size} bytes; the limit is {limits['file_bytes']}"
        if stat.S_ISREG(status.st_mode) and not os.access(self._absolute(changed.path), os.R_OK):
            return "not readable"
        return ""

    def _is_in(self, left_out: dict[bytes, str], path: bytes) -> bool:
        return path in left_out or any(entry in self._too_much for entry in _enclosing(path))

    def _add(self, left_out: dict[bytes, str]) -> tuple[str, str]:
        """Returns the new tree, and what git complained about."""
        excluded = [b":(exclude,literal)" + path.rstrip(b"/") for path in left_out]
        added = self._git.run(
            "add",
            "--all",
            "--ignore-errors",
            "--pathspec-from-file=-",
            "--pathspec-file-nul",
            stdin=b"\0".join([b".", *excluded]),
        )
        tree = self._git("write-tree").decode().strip()
        return tree, f"\n[Not all changes were recorded: {message_of(added)}]" if added.returncode else ""

    def _pack(self, parent: str, tree: str, limit: int) -> bytes:
        """New blobs and trees, as deltas against the tree before. Empty when nothing changed."""
        if tree == parent:
            return b""
        fields = self._git("diff-tree", "-r", "-t", "-z", "--no-renames", parent, tree).split(b"\0")
        wanted = [f"-{parent}".encode(), tree.encode() + b" "]
        for meta, path in zip(fields[::2], fields[1::2]):
            _old_mode, mode, _old, new, state = meta.decode().split()
            if state != "D" and mode != GITLINK:
                wanted.append(new.encode() + b" " + path.replace(b"\n", b"?"))
        pack = self._git.read_at_most(
            limit, "pack-objects", "--stdout", "-q", "--delta-base-offset", stdin=b"\n".join(wanted) + b"\n"
        )
        if pack is None:
            raise PackTooBig
        return pack

    def _leave_out_most(self, added: list[Changed], limits: Limits) -> None:
        """Leave out whole new directories and files, the biggest first, until the rest is sure to fit."""
        entries = self._git("ls-files", "-z", "--others", "--exclude-standard", "--directory").split(b"\0")
        sizes = {entry: 0 for entry in entries if entry}
        for changed in added:
            entry = next((entry for entry in _enclosing(changed.path) if entry in sizes), changed.path)
            sizes[entry] = sizes.get(entry, 0) + self._size(changed.path)
        total = sum(sizes.values())
        for entry in sorted(sizes, key=lambda e: sizes[e], reverse=True):
            if total <= limits["pack_bytes"]:
                return
            total -= sizes[entry]
            self._too_much.add(entry)

    def _tell(self, left_out: dict[bytes, str]) -> tuple[list[str], str]:
        """Paths that were not left out before, and a note about them."""
        new = {_name(path): why for path, why in left_out.items() if _name(path) not in self._told}
        self._told.update(new)
        if not new:
            return [], ""
        named = [f"{name} ({why})" for name, why in list(new.items())[:MAX_NAMED]]
        more = f" and {len(new) - MAX_NAMED} more" if len(new) > MAX_NAMED else ""
        note = f"\n[These files are not kept beyond this sandbox: {', '.join(named)}{more}]"
        return list(new)[:MAX_NAMED] + ([more.strip()] if more else []), note

    def _rebuild_index(self, parent: str) -> None:
        """As it was after the last snapshot; also when a killed git has left it broken."""
        self._remove_stale_locks()
        if self._git.run("read-tree", "-m", parent).returncode:
            self._git.run("read-tree", parent)

    def _remove_stale_locks(self) -> None:
        """No git of ours runs now: a lock belongs to one that was killed."""
        for name in ("index.lock", "HEAD.lock", "config.lock"):
            with suppress(OSError):
                os.unlink(os.path.join(self._paths.snapshots, name))

    def _size(self, path: bytes) -> int:
        try:
            return os.lstat(self._absolute(path)).st_size
        except OSError:
            return 0

    def _absolute(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self._paths.repo), path)


def _unrecorded(why: str) -> Recorded:
    note = f"\n[The changes in the workspace could not be recorded ({why}). They would be lost with this sandbox.]"
    return Recorded(None, b"", [], note)


def _name(path: bytes) -> str:
    return path.decode(errors="replace").replace("\0", "\ufffd")


def _enclosing(path: bytes) -> Iterator[bytes]:
    """The path itself, and the directories it lies in, each with its slash."""
    yield path
    names = path.split(b"/")
    for depth in range(len(names) - 1, 0, -1):
        yield b"/".join(names[:depth]) + b"/"
