"""Postgres refuses to run as root. When we are root it runs as a system user of its own."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from infra.errors import ConfigurationError

USER = "pgserver"
PROGRAM_CACHE = Path("/var/cache/farhand")

_HINT = "Start as an ordinary user, or set FARHAND_DATABASE_URL to a Postgres of your own."


def server_user() -> str | None:
    """The user that Postgres runs as: None (ours) unless we are root. Made on first need. Raises ConfigurationError."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(USER)
    except KeyError:
        _make_user()
    return USER


def give(directory: Path, user: str | None) -> None:
    """Make an existing directory the user's, closed to everybody else."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
    directory.chmod(0o700)


def reachable(programs: Path, libraries: Path | None, user: str | None) -> Path:
    """`programs`, or a copy of it that `user` can execute: a checkout below /root is closed to everybody but root.

    `libraries` is the directory beside the parent of `programs` where their shared libraries are looked for.
    """
    if user is None or _runs(programs / "bin/postgres", user):
        return programs
    version = f"{programs} {programs.stat().st_mtime_ns}"
    home = PROGRAM_CACHE / f"postgres-{hashlib.sha256(version.encode()).hexdigest()[:12]}"
    copy = home / programs.parent.name / programs.name
    if not copy.is_dir():
        _copy(programs, libraries, home)
    if not _runs(copy / "bin/postgres", user):
        raise ConfigurationError(f"the user {user} can't run {copy}/bin/postgres", hint=_HINT)
    return copy


def _runs(program: Path, user: str) -> bool:
    try:
        return subprocess.run([program, "--version"], user=user, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _copy(programs: Path, libraries: Path | None, home: Path) -> None:
    """Written in one step: whoever looks sees the whole of it, or nothing."""
    PROGRAM_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="copy-", dir=PROGRAM_CACHE) as scratch:
        whole = Path(scratch) / "whole"
        shutil.copytree(programs, whole / programs.parent.name / programs.name, symlinks=True)
        if libraries is not None:
            shutil.copytree(libraries, whole / libraries.name, symlinks=True)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        try:
            whole.rename(home)
        except OSError:
            if not home.is_dir():  # else another start made the same copy
                raise


def _make_user() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigurationError(f"Postgres needs a user {USER}, and there is no useradd", hint=_HINT) from None
    except subprocess.CalledProcessError as error:
        raise ConfigurationError(f"Postgres needs a user {USER}: {error.stderr.strip()}", hint=_HINT) from None
