"""What the result of a setup script depends on, as a key. Decision 14 says why each of these."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

from infra.environment import Environment
from workers.git.errors import CommandFailed
from workers.git.mirror import Mirror
from workers.workspace import Workspace

_VERSION = 1
"""Of what archives hold: raised when a worker could not use those of another version."""

MAX_LISTING_BYTES = 32 * 2**20
"""A tree with more names than fit is taken as it is: every commit has its own result then."""

LOCK_FILES = frozenset(
    {
        "requirements.txt", "requirements-dev.txt", "dev-requirements.txt", "constraints.txt", "pyproject.toml",
        "setup.py", "setup.cfg", "poetry.lock", "uv.lock", "pdm.lock", "pylock.toml", "Pipfile", "Pipfile.lock",
        "environment.yml", "tox.ini", ".python-version",
        "package.json", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock",
        "bun.lockb", ".npmrc", ".yarnrc.yml", ".nvmrc",
        "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "go.mod", "go.sum", "Gemfile", "Gemfile.lock",
        "composer.json", "composer.lock", "mix.exs", "mix.lock", "pubspec.yaml", "pubspec.lock",
        "pom.xml", "build.gradle", "build.gradle.kts", "gradle.lockfile", "libs.versions.toml", ".tool-versions",
    }
)  # fmt: skip


def setup_key(environment: Environment, image_id: str, project_id: UUID, workspace: Workspace) -> str:
    """64 hexadecimal digits. Raises CommandFailed."""
    depends_on = [
        _VERSION,
        image_id,
        str(project_id),
        workspace.branch,
        environment.setup_script,
        dict(environment.variables),
        lock_files(workspace.mirror, workspace.base),
    ]
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def lock_files(mirror: Mirror, commit: str, *, most: int = MAX_LISTING_BYTES) -> list[str]:
    """The files that say what a project depends on, each with its id; or the id of the whole, where that is too large.

    Besides the names that tools know, those of the kind `requirements-*.txt` and `requirements/*.txt`. `most` bounds
    the bytes of the list of all names.
    """
    try:
        listing = mirror.git.run("ls-tree", "-r", "-z", "--full-tree", commit, git_dir=mirror.path, max_output=most)
    except CommandFailed as failure:
        if failure.reason != "output":
            raise
        return [commit]
    return [line.decode(errors="replace") for line in listing.split(b"\0") if _is_lock_file(line)]


def _is_lock_file(line: bytes) -> bool:
    """Of a line `<mode> <type> <id>\\t<path>`."""
    path = line.partition(b"\t")[2].decode(errors="replace")
    directory, _, name = path.rpartition("/")
    is_requirements = name.endswith((".txt", ".in")) and (
        name.startswith("requirements") or directory.rpartition("/")[2] == "requirements"
    )
    return name in LOCK_FILES or is_requirements
