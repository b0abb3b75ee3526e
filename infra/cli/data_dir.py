"""The directory of one deployment on this machine, and the address and token that its clients find there.

    lock          held by the `up` that is running; names its process
    address       where it listens, or listened last
    token         API token of the local user (0600)
    secret-keys   the key ring, made on the first start (0600)
    postgres/     data of the embedded Postgres          redis/       data of the embedded Redis
    logs/         what each service prints               recordings/  for `model: replay:<name>`
    pids/         what runs, for the next start to find if this one is killed

Postgres runs as another user when we are root, so its data is entered from here, whatever the modes of the parents.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import ConfigurationError, ConflictError


class InUseError(ConflictError):
    """Use the deployment that runs there, stop it first, or start this one with another --data."""

    code = "data_in_use"


def default_data_dir() -> Path:
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(home) / "farhand"


class DataDir:
    """Paths below one data directory. Nothing is made before `make`."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.token_file = self.path / "token"
        self.address_file = self.path / "address"
        self.postgres = self.path / "postgres"
        self.redis = self.path / "redis"
        self.logs = self.path / "logs"
        self.pids = self.path / "pids"
        self.recordings = self.path / "recordings"

    def make(self) -> None:
        """Raises ConfigurationError when it can't be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.recordings.mkdir(exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Ours alone while entered; free again when this process ends, however it ends.

        Raises InUseError; ConfigurationError when it can't be written.
        """
        try:
            file = (self.path / "lock").open("a+")
        except OSError as error:
            raise self._not_writable(error) from None
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise InUseError(f"{self.path} is in use by process {lock.read().strip() or 'unknown'}") from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def _not_writable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path} can't be written: {error.strerror}", hint="Name another directory with --data."
        )

    def address(self) -> str | None:
        """Where the deployment of this directory listens, or listened last."""
        return _read(self.address_file)

    def token(self) -> str | None:
        return _read(self.token_file)

    def secret_keys(self) -> str:
        """The key ring, made on first use: losing it loses the stored git tokens."""
        file = self.path / "secret-keys"
        if (known := _read(file)) is None:
            known = secrets.token_urlsafe(48)
            write_private(file, known)
        return known

    def run_dir(self) -> Path:
        """The place for its sockets, mirrors and locks: a short path, and on a disk (mirrors are large)."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:8]
        base = Path("/var/tmp") if os.access("/var/tmp", os.W_OK) else Path("/tmp")  # noqa: S108
        return base / f"fh-{os.geteuid()}-{name}"


def make_run_dir(path: Path) -> None:
    """Make it ours; sandboxes of other users may pass through, but not list it.

    Raises ConfigurationError: somebody else made it first.
    """
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.geteuid() or path.is_symlink():
        raise ConfigurationError(
            f"{path} belongs to another user", hint="Set FARHAND_RUN_DIR to a short path that is yours."
        )
    path.chmod(0o711)


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(f"{text}\n")
    fresh.replace(file)


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is ours below it, also what was made read-only. Nothing happens without it."""
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except PermissionError:
        raise ConfigurationError(
            f"{file} can't be read", hint="Use your own --data, or name --server and --token."
        ) from None
