"""The directory of one sandbox, `RUN_DIR/s/<id>`, and the users inside.

    link/             the worker's sockets. Owned by the worker, open to the loop's group only: the loop connects, and
                      nobody inside can write here, so whoever binds the next socket needs no care about symlinks
    in/objects/pack/  where the worker hard-links packs; everybody inside may read
    served            there once a loop may have got its job: from then on another worker can serve it (`mark_served`)
    work/             (sandbox `local` only) the helper's own; in a container this is a tmpfs

Beside it, `<id>.hold` is the lock of whoever wants the sandbox before a task does (`hold`).

In a container all users differ from the host's, so numbers that no account has are taken. A worker that is not
root cannot give a directory away: there the loop runs under the worker's own number.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import NamedTuple

from agent_runtime.protocol import SOCKET
from infra.errors import ConfigurationError

log = logging.getLogger(__name__)

LOOP_UID = 61001
HELPER_UID = 61002
NOBODY_UID = 65534

SOCKET_PATH_BYTES = 107
"""108 with the zero byte at its end; a longer path cannot be bound."""

REMOVE_TIMEOUT_S = 120.0
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")


class Users(NamedTuple):
    """Numbers of the two users of a sandbox; each one's group has the same number."""

    loop: int
    helper: int


def users(helper_uid: int = HELPER_UID) -> Users:
    """Who loop and helper are in a sandbox that this process starts."""
    own = os.geteuid()
    return Users(LOOP_UID if own == 0 else own, helper_uid)


def new_sandbox_id() -> str:
    """A fresh id: short, for the socket's path, and not to be guessed."""
    return secrets.token_hex(8)


def path_of(run_dir: Path, sandbox_id: str) -> Path:
    """Where the sandbox's directory is. Raises ValueError for an id that is none: it becomes a path and a name."""
    if not _ID.fullmatch(sandbox_id):
        raise ValueError(f"not a sandbox id: {sandbox_id!r}")
    return run_dir / "s" / sandbox_id


def make(run_dir: Path, sandbox_id: str) -> Path:
    """Makes `link/` and `in/objects/pack/` of a new sandbox, and returns its directory.

    Raises:
        ConfigurationError: `run_dir` is too long for a socket path, or cannot be written.
        FileExistsError: there is such a sandbox.
    """
    directory = path_of(run_dir.absolute(), sandbox_id)
    excess = len(os.fsencode(directory / "link" / SOCKET)) - SOCKET_PATH_BYTES
    if excess > 0:
        raise ConfigurationError(
            f"FARHAND_RUN_DIR is too long: the socket path {directory / 'link' / SOCKET} has {excess} bytes more than"
            f" the {SOCKET_PATH_BYTES} that a socket can have",
            hint="Set FARHAND_RUN_DIR to a shorter path, such as /run/farhand.",
            code="run_dir_too_long",
        )
    make_root(run_dir)
    directory.mkdir()
    _make_link(directory / "link")
    # Modes are set, not asked for: a worker's umask must not keep the helper out.
    for part in (directory, directory / "in", directory / "in/objects", directory / "in/objects/pack"):
        part.mkdir(exist_ok=True)
        part.chmod(0o755)
    return directory


def make_root(run_dir: Path) -> None:
    """Makes the directory of all sandboxes, `RUN_DIR/s`. Raises ConfigurationError: it cannot be written."""
    root = run_dir / "s"
    try:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o711)  # ids are secrets among the users of a host
    except OSError as error:
        raise ConfigurationError(
            f"cannot make {root}: {error.strerror}",
            hint="Set FARHAND_RUN_DIR to a directory that the worker may write.",
            code="run_dir_unusable",
        ) from None


def _make_link(link: Path) -> None:
    link.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(link, 0, users().loop)
        link.chmod(0o710)


def mark_served(directory: Path) -> None:
    """Its objects are in place and its job is about to be answered: whoever serves it next finds it whole."""
    (directory / "served").touch()


def was_served(directory: Path) -> bool:
    """Whether a loop may be at work in it. Nobody adopts one that waits for what its dead worker was preparing."""
    return (directory / "served").exists()


def found(run_dir: Path) -> list[str]:
    """Ids of all sandbox directories of this host."""
    try:
        return sorted(entry.name for entry in os.scandir(run_dir / "s") if _ID.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def remove(directory: Path) -> None:
    """Removes the directory, whatever a command has made of its part of it. Nothing happens when there is none.

    Raises:
        ConfigurationError: files are left, and why.
    """
    if not os.path.lexists(directory):
        return
    # `rm` copes with any depth, and does not hold up the other greenlets of a worker for a million files.
    problem = _run("rm", directory)
    if problem:
        _run("chmod", directory)  # directories that their owner has locked
        problem = _run("rm", directory)
    if problem:
        raise ConfigurationError(
            f"cannot remove {directory}: {problem}",
            hint="Remove the directory by hand, as the user who owns its files.",
            code="sandbox_files_left",
        )


_COMMANDS = {"rm": ("rm", "-rf", "--one-file-system", "--"), "chmod": ("chmod", "-R", "u+rwX", "--")}


def _run(command: str, directory: Path) -> str:
    """What went wrong, or nothing."""
    try:
        done = subprocess.run(
            [*_COMMANDS[command], str(directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=REMOVE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{command} took more than {REMOVE_TIMEOUT_S:.0f} s"
    return done.stderr.decode(errors="replace").strip()[-600:] if done.returncode else ""
