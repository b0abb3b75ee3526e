"""Removes a directory, whatever its owner has locked in it."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress


def remove_tree(path: str) -> None:
    """What cannot be removed is left, silently: whoever makes the directory anew finds out."""
    for parent, directories, _files in os.walk(path):
        for name in directories:
            inside = os.path.join(parent, name)
            with suppress(OSError):
                if not os.path.islink(inside):
                    os.chmod(inside, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)
