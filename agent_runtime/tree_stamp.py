"""Whether a work tree can have changed since it was last looked at, told without git.

Most commands of an agent only read. To ask git what they changed takes a process; what the kernel says about a thousand
files is read in a fraction of that time. Like git, this believes the kernel: whatever changes a file's content, mode or
owner moves its `ctime`, which nobody can set, and a file that took another's place has another inode.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

MAX_ENTRIES = 1000
"""A tree of more files and directories is git's to look at: it is the faster of the two there."""

GRAIN_NS = 50_000_000
"""Times come in ticks of 10 ms at most: what is younger may change once more within its tick, and look the same."""

_SECOND_NS = 1_000_000_000


class Unprovable(Exception):
    """An equal stamp would not mean an equal tree."""


def take(root: str) -> bytes | None:
    """What the kernel says about all that lies below `root`, but for the `.git` at its top, which git passes over too.

    Two equal stamps mean that nothing changed from the first to the second. None when they would not: there is too
    much, something cannot be read, was changed just now, or lies on a file system that counts whole seconds.
    """
    try:
        return b"\n".join(_lines(os.fsencode(root)))
    except (OSError, Unprovable):
        return None


def _lines(root: bytes) -> Iterator[bytes]:
    young = time.time_ns() - GRAIN_NS
    times: list[int] = []
    for count, entry in enumerate(_entries(root), 1):
        if count > MAX_ENTRIES:
            raise Unprovable
        of = entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):  # what is in it has lines of its own
            yield b"%s/ %d %d" % (entry.path, of.st_ino, of.st_mode)
            continue
        if of.st_ctime_ns > young:
            raise Unprovable
        times.append(of.st_ctime_ns)
        seen = (of.st_ino, of.st_mode, of.st_size, of.st_mtime_ns, of.st_ctime_ns)
        yield b"%s %d %d %d %d %d" % (entry.path, *seen)
    if times and not any(time_ns % _SECOND_NS for time_ns in times):
        raise Unprovable


def _entries(root: bytes) -> Iterator[os.DirEntry[bytes]]:
    directories = [root]
    while directories:
        directory = directories.pop()
        with os.scandir(directory) as found:
            for entry in found:
                if directory == root and entry.name == b".git":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                yield entry
