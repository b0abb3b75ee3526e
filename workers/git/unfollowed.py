"""What a repository points to and a worker never follows: submodules and Git LFS."""

from __future__ import annotations

import re

from workers.git.errors import CommandFailed
from workers.git.mirror import Mirror

Notice = tuple[str, str]
"""A code and a sentence for the user."""

_MAX_BYTES = 2**20
_LFS = re.compile(rb"^[^#\n]*\bfilter=lfs\b", re.MULTILINE)

_EMPTY = (
    "Farhand does not fetch them: their directories are empty in the sandbox, and what they point to stays as it is."
)
_POINTERS = "Farhand does not fetch them: in the sandbox they are their pointers, a few lines of text."
SUBMODULES: Notice = ("submodules_not_fetched", f"The repository has submodules. {_EMPTY}")
LFS: Notice = ("lfs_not_fetched", f"The repository keeps files in Git LFS. {_POINTERS}")


def unfollowed(mirror: Mirror, commit: str) -> list[Notice]:
    """What a commit has of these. LFS is looked for in the topmost `.gitattributes`, where it usually stands."""
    names = (".gitmodules", ".gitattributes")
    asked = "".join(f"{commit}:{name}\n" for name in names).encode()
    try:
        said = mirror.git.run("cat-file", "--batch", git_dir=mirror.path, stdin=asked, max_output=_MAX_BYTES)
    except CommandFailed as failure:
        said = failure.stdout  # as far as it came: a file that large has said it in its beginning
    submodules, _, attributes = said.partition(b"\n") if _is_missing(said) else (said, b"", said)
    found = [] if _is_missing(submodules) else [SUBMODULES]
    return [*found, LFS] if _LFS.search(attributes) else found


def _is_missing(said: bytes) -> bool:
    return said.partition(b"\n")[0].endswith((b" missing", b" ambiguous")) or not said
