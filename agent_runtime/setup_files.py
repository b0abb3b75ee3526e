"""What a setup script leaves for later tasks: packed into an archive, and unpacked from it. In the helper.

Kept are the files of the workspace that git ignores, and the home directory; the archive names them below `repo/` and
`home/`. It is made and read as the user that commands run as, who could write all of it anyway: so it needs no
trust, and gets none outside of a sandbox, where it is bytes.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from agent_runtime.git import Git, GitError
from agent_runtime.removal import remove_tree
from agent_runtime.sandbox_paths import Paths

PART_BYTES = 1 << 20
BLOCK = tarfile.BLOCKSIZE
NAMED_AT_MOST = 20


class SetupProblem(Exception):
    """The files cannot be packed or unpacked; the message says why."""


class Part(NamedTuple):
    """A piece of an archive; `last` when nothing follows it."""

    data: bytes
    last: bool


class Archive:
    """One archive, taken piece by piece. Nothing may be written meanwhile: whoever asks for it has killed all else."""

    def __init__(self, paths: Paths) -> None:
        self._pieces = _pieces(paths)

    def part(self) -> Part:
        """Raises SetupProblem."""
        data = bytearray()
        try:
            while len(data) < PART_BYTES:
                data += next(self._pieces)
        except StopIteration:
            return Part(bytes(data), last=True)
        except (OSError, GitError) as problem:
            raise SetupProblem(f"the files that it left cannot be read: {problem}") from problem
        return Part(bytes(data), last=False)


def not_kept(paths: Paths) -> list[str]:
    """Names of what is neither tracked nor ignored, as far as they are shown to anybody. Raises SetupProblem."""
    try:
        return _listed(paths, "--directory")[:NAMED_AT_MOST]
    except GitError as problem:
        raise SetupProblem(str(problem)) from problem


def unpack(paths: Paths, archive: str) -> None:
    """Put back what an archive holds, into a workspace that was just checked out. Raises SetupProblem."""
    remove_tree(paths.home)
    os.makedirs(paths.home)
    # Made by the same user in such a sandbox; the filters that newer versions have refuse links such as a venv's.
    trusting: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    try:
        with tarfile.open(archive, "r:", encoding="utf-8", errors="surrogateescape") as members:
            members.extractall(paths.work, **trusting)  # noqa: S202  (its maker could write all of it)
    except (OSError, tarfile.TarError) as problem:
        raise SetupProblem(f"what the setup script has left cannot be put back: {problem}") from problem


def _pieces(paths: Paths) -> Iterator[bytes]:
    for name in os.listdir(paths.home):
        yield from _tree(paths.home, name, "home")
    for name in _listed(paths, "--ignored", "--directory"):
        yield from _tree(paths.repo, name.rstrip("/"), "repo")
    yield bytes(2 * BLOCK)


def _listed(paths: Paths, *options: str) -> list[str]:
    """Paths that git does not track, relative to the workspace, without the repository itself."""
    git = Git(os.path.join(paths.repo, ".git"), paths.repo, paths.environment())
    said = git("ls-files", "-z", "--others", "--exclude-standard", *options)
    return [os.fsdecode(name) for name in said.split(b"\0") if name and not name.startswith(b".git/")]


def _tree(root: str, name: str, below: str) -> Iterator[bytes]:
    path, kept_as = os.path.join(root, name), f"{below}/{name}"
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        yield from _file(path, kept_as, found)
        return
    yield _header(kept_as, found, tarfile.DIRTYPE)
    os.chmod(path, stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
    for inside in sorted(os.listdir(path)):
        yield from _tree(root, os.path.join(name, inside), below)


def _file(path: str, kept_as: str, found: os.stat_result) -> Iterator[bytes]:
    """Sockets, pipes and the like belong to processes, and are not kept."""
    if stat.S_ISLNK(found.st_mode):
        yield _header(kept_as, found, tarfile.SYMTYPE, os.readlink(path))
    elif stat.S_ISREG(found.st_mode):
        yield _header(kept_as, found, tarfile.REGTYPE)
        left = found.st_size
        with suppress(PermissionError):
            os.chmod(path, stat.S_IMODE(found.st_mode) | stat.S_IRUSR)
        with open(path, "rb") as file:
            while left > 0:
                data = file.read(min(left, PART_BYTES)) or bytes(min(left, PART_BYTES))
                left -= len(data)
                yield data
        yield bytes(-found.st_size % BLOCK)


def _header(name: str, found: os.stat_result, kind: bytes, target: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    member.mode, member.mtime = found.st_mode & 0o777, int(found.st_mtime)
    member.size = found.st_size if kind == tarfile.REGTYPE else 0
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
