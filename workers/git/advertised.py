"""What a repository offers: its branches, as `git ls-remote` says them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from workers.git.errors import GitError

HEADS = "refs/heads/"
_SHA1_CHARS = 40


@dataclass(frozen=True)
class Advertised:
    """The branches of a repository, name to commit, and which of them is the default (None: HEAD names no branch)."""

    heads: Mapping[str, str]
    default: str | None
    digest: str
    """Of all that the remote said: when it is equal, there is nothing to fetch."""


def parse(said: bytes, url: str) -> Advertised:
    """Read `git ls-remote --symref <url> HEAD 'refs/heads/*'`.

    Raises:
        GitError: `repo_empty` or `repo_unsupported`.
    """
    lines = [line.partition("\t") for line in said.decode(errors="replace").splitlines()]
    commits = {name: what for what, _, name in lines if not what.startswith("ref: ")}
    heads = {name.removeprefix(HEADS): sha for name, sha in commits.items() if name.startswith(HEADS)}
    if not heads:
        raise GitError(
            f"{url} has no branch and no commit yet",
            hint="Push a first commit to the repository, then retry the task.",
            code="repo_empty",
        )
    if any(len(sha) != _SHA1_CHARS for sha in heads.values()):
        raise GitError(
            f"{url} uses another object format than SHA-1",
            hint="Repositories with SHA-256 ids are not supported: use one made with --object-format=sha1.",
            code="repo_unsupported",
        )
    pointed_at = [what.removeprefix(f"ref: {HEADS}") for what, _, name in lines if name == "HEAD" and HEADS in what]
    default = pointed_at[0] if pointed_at else _branch_at(commits.get("HEAD"), heads)
    return Advertised(heads, default if default in heads else None, hashlib.sha256(said).hexdigest())


def dump(offered: Advertised, url: str, packs: Mapping[str, int]) -> str:
    """What a mirror remembers of its last refresh."""
    state = {"url": url, "digest": offered.digest, "default": offered.default, "packs": dict(packs)}
    return json.dumps(state | {"heads": dict(offered.heads)})


def load(remembered: bytes, url: str, packs: Mapping[str, int]) -> Advertised | None:
    """What was remembered, if the mirror is of that URL; None if it is of another one.

    Raises:
        ValueError: it is not readable, or a pack that was there is missing or has another size now.
    """
    try:
        state = json.loads(remembered)
        if state["url"] != url:
            return None
        if not state["packs"].items() <= packs.items():
            raise ValueError("packs are missing or changed")
        return Advertised(state["heads"], state["default"], state["digest"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a mirror's memory") from error


def _branch_at(head: str | None, heads: Mapping[str, str]) -> str | None:
    """The branch that a HEAD without a name most likely means: hosts of old git versions do not say it."""
    same = [name for name, sha in heads.items() if sha == head]
    return next((name for name in ("main", "master", *same) if name in same), None)
