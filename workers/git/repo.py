"""A task's own bare repository on the worker: trees come in as packs, a commit, a diff and its figures go out.

It has no work tree, no hooks and no configuration but its defaults; it lives as long as its attempt.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from workers.git.command import MAX_OUTPUT_BYTES, Git
from workers.git.errors import CommandFailed, GitError, detail_of, local_error
from workers.git.mirror import Mirror
from workers.git.objects import share_packs, sweep_leftovers

MAX_PACK_BYTES = 64 * 2**20
MAX_PACK_OBJECTS = 500_000
"""Some hundred bytes of memory are taken for each while a pack is read."""
MAX_ENTRIES_BYTES = 64 * 2**20
"""Of a tree's full listing: some 500,000 files with usual paths."""
MAX_DIFF_BYTES = 16 * 2**20
AUTHOR = ("Farhand", "farhand@farhand.invalid")

_OBJECT_ID = re.compile(r"[0-9a-f]{40}")
_STRICT = "--strict=badFilemode=error"
_MAX_WHOLE_PACK_BYTES = 8 * MAX_PACK_BYTES  # with the bases that a thin pack leaves out
_REPORT = "Look at the task's last commands: something in the sandbox tampered with its git objects."
_CUT = b"\n# Cut here: the diff is larger than this deployment keeps.\n"
_FIGURES = re.compile(rb"(\d+) (files? changed|insertions?|deletions?)")


@dataclass(frozen=True)
class TreePack:
    """A work tree as it left a sandbox: the id of its tree, and a pack of what that has over the tree `parent`."""

    tree: str
    parent: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class DiffStat:
    files_changed: int
    insertions: int
    deletions: int


class TaskRepo:
    """Made by `build`. Every object id that it is given is checked to be one."""

    def __init__(self, git: Git, path: Path) -> None:
        self.git = git
        self.path = path
        self._unpacking = threading.Lock()

    @classmethod
    def build(cls, path: Path, mirror: Mirror, packs: Sequence[TreePack]) -> TaskRepo:
        """A new repository at `path` (what was there is removed) with the mirror's objects and these trees, in order.

        Raises:
            GitError: `pack_refused` or `tree_refused`, see `receive`; `mirror_gone`.
        """
        if path.exists():
            shutil.rmtree(path)
        repo = cls(mirror.git, path)
        try:
            mirror.git.run("init", "--quiet", "--bare", "--template=", str(path))
        except CommandFailed as failure:
            raise local_error(failure, "making a repository") from None
        mirror.share_objects(path)
        for pack in packs:
            repo.receive(pack)
        return repo

    def receive(self, pack: TreePack) -> None:
        """Take in one tree from a sandbox, and check it before anything is recorded or refers to it.

        Raises:
            GitError: `pack_refused` for a pack that is too big, or that git's strict checks refuse (objects that
                are malformed or refer to missing ones, names like `.git` in any disguise); `tree_refused` when the
                tree is not there. `check_tree` says the rest, once, before a commit.
        """
        self._unpack(pack)
        self._require_tree(pack.tree)

    def check_tree(self, tree: str) -> None:
        """That a tree can be walked in bounded time: few objects may stand for a tree without end.

        Its names, and that none of its objects is missing, were checked when each of them came in.

        Raises:
            GitError: `tree_refused`.
        """
        self._require_tree(tree)
        try:
            self._run("ls-tree", "-r", "-t", "-z", "--full-tree", tree, max_output=MAX_ENTRIES_BYTES)
        except CommandFailed as failure:
            raise _tree_refused("it has too many files" if failure.reason == "output" else detail_of(failure)) from None

    def commit(self, tree: str, parent: str, message: str, when: datetime) -> str:
        """Commit a tree. The id is a function of the arguments alone, so a retry makes the same commit.

        `when` needs a time zone; it is taken in whole seconds, UTC.
        """
        stamp = f"@{int(when.timestamp())} +0000"
        name, email = AUTHOR
        people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER")
                  for key, value in (("NAME", name), ("EMAIL", email), ("DATE", stamp))}  # fmt: skip
        text = message.replace("\0", "").encode(errors="replace")
        try:
            made = self._run(
                "commit-tree", checked_id(tree), "-p", checked_id(parent), "-F", "-", stdin=text, environment=people
            )
        except CommandFailed as failure:
            raise local_error(failure, "making a commit") from None
        return made.decode().strip()

    def diff(self, base: str, tree: str, max_bytes: int = MAX_DIFF_BYTES) -> bytes:
        """The unified diff from a commit or tree to another, as `git apply` takes it.

        Where it would exceed `max_bytes`, contents of binary files are left out; where that is not enough it is cut
        after a line, and says so.
        """
        for binary in (("--binary",), ()):
            try:
                return self._diff_tree(base, tree, "-p", "--full-index", *binary, max_output=max_bytes)
            except CommandFailed as failure:
                if failure.reason != "output":
                    raise local_error(failure, "making a diff") from None
                beginning = failure.stdout
        return beginning[: beginning.rfind(b"\n", 0, max_bytes - len(_CUT)) + 1] + _CUT

    def stat(self, base: str, tree: str) -> DiffStat:
        """How much changed between two commits or trees."""
        try:
            said = self._diff_tree(base, tree, "--shortstat")
        except CommandFailed as failure:
            raise local_error(failure, "counting changes") from None
        counted = {kind[:4]: int(number) for number, kind in _FIGURES.findall(said)}
        return DiffStat(counted.get(b"file", 0), counted.get(b"inse", 0), counted.get(b"dele", 0))

    def share_packs(self, target: Path) -> None:
        """Make all that this repository holds, mirror and restored trees, readable in `target/objects` by hard links.

        What is there already stays.
        """
        share_packs(self.path / "objects", target / "objects")

    def _unpack(self, pack: TreePack) -> None:
        if len(pack.data) > MAX_PACK_BYTES:
            raise _pack_refused(f"it has {len(pack.data):,} bytes, {MAX_PACK_BYTES:,} are taken")
        objects = int.from_bytes(pack.data[8:12], "big")  # after the signature and the version
        if objects > MAX_PACK_OBJECTS:
            raise _pack_refused(f"it has {objects:,} objects, {MAX_PACK_OBJECTS:,} are taken")
        with self._unpacking:
            try:
                self._run(
                    "index-pack", _STRICT, "--fix-thin", "--stdin", f"--max-input-size={MAX_PACK_BYTES}",
                    stdin=pack.data, max_file_bytes=_MAX_WHOLE_PACK_BYTES,
                )  # fmt: skip
            except CommandFailed as failure:
                sweep_leftovers(self.path / "objects")
                why = "it took too long" if failure.reason == "timeout" else detail_of(failure)
                raise _pack_refused(why) from None

    def _require_tree(self, tree: str) -> None:
        try:
            kind = self._run("cat-file", "-t", checked_id(tree)).decode().strip()
        except CommandFailed:
            raise _tree_refused("it is not in the pack that should bring it") from None
        if kind != "tree":
            raise _tree_refused(f"{tree} is a {kind}")

    def _diff_tree(self, base: str, tree: str, *options: str, max_output: int = MAX_DIFF_BYTES) -> bytes:
        quiet = ("--no-ext-diff", "--no-textconv", "--no-color", "-r", "-M", "-l1000")
        return self._run("diff-tree", *quiet, *options, checked_id(base), checked_id(tree), max_output=max_output)

    def _run(
        self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None,
        max_output: int = MAX_OUTPUT_BYTES, max_file_bytes: int | None = None,
    ) -> bytes:  # fmt: skip
        return self.git.run(
            *arguments, git_dir=self.path, stdin=stdin, environment=environment, max_output=max_output,
            max_file_bytes=max_file_bytes,
        )  # fmt: skip


def checked_id(given: str) -> str:
    """A full SHA-1 object id, and nothing that git could take for an option, a range or a name.

    Raises:
        GitError: `object_id_invalid`.
    """
    if not _OBJECT_ID.fullmatch(given):
        raise GitError(f"{given[:60]!r} is not an object id", hint=_REPORT, code="object_id_invalid")
    return given


def _pack_refused(why: str) -> GitError:
    return GitError(f"the changes that the sandbox sent were refused: {why}", hint=_REPORT, code="pack_refused")


def _tree_refused(why: str) -> GitError:
    return GitError(f"the work tree that the sandbox sent was refused: {why}", hint=_REPORT, code="tree_refused")
