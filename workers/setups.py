"""What setup scripts of projects have left, kept for later tasks of this host: `RUN_DIR/setup/<key>.tar`.

    nothing ──begin──► building (`<key>.<random>.part`) ──done──► kept (`<key>.tar`)
       ▲                   │                                        │
       └──give_up──────────┘   ◄─────────────prune─────────────────┘

Who may write: whoever has the `flock` on `<key>.lock`, in whatever process of this host. A second one waits, or takes
over when the first is gone.

What happens when the builder dies at each line:

    before or in the middle of its parts    its lock is free; the next builder, or a sweep, removes the `.part`
    after the last part, before the rename  the same
    after the rename                        it is kept: whole, as its length and hash were checked before
    between `done` and the attempt's end    it is kept; the next attempt takes it from here

An archive is opaque here: it is made in a sandbox, and opened in sandboxes only. A reader gets a hard link of its own,
so pruning takes nothing away from anybody.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from infra.errors import InvalidInputError, TaskFailedError
from infra.settings import Settings

log = logging.getLogger(__name__)

MAX_PART_BYTES = 4 * 2**20


class SetupTooLargeError(TaskFailedError):
    """Have the script leave less in ignored files and in the home directory, caches above all; then retry the task."""

    code = "setup_too_large"


class SetupNotKeptError(TaskFailedError):
    """Ask the operator for room on the worker's host (FARHAND_MIN_FREE_BYTES is the floor), then retry the task."""

    code = "setup_not_kept"


class SetupStore:
    """All results of a host. Safe for many threads and processes."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.run_dir / "setup"
        self._settings = settings

    def fetch(self, key: str, target: Path) -> bool:
        """Make the result readable as `target`. False: there is none."""
        kept = self._root / f"{key}.tar"
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(kept)
        except FileNotFoundError:
            return False
        with suppress(FileNotFoundError):
            os.utime(kept)  # the least recently used go first
        return True

    def begin(self, key: str) -> Building | None:
        """The right to make a result. None: somebody else is at it."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._lock(key)
        if lock is None:
            return None
        self._remove_parts(key)
        return Building(self, self._root, key, lock, self._settings)

    def sweep(self) -> None:
        """Remove what builders that are gone have left."""
        for part in self._root.glob("*.part"):
            self._sweep_key(part.name.partition(".")[0])
        for lock in self._root.glob("*.lock"):
            if not lock.with_suffix(".tar").exists():
                self._sweep_key(lock.stem)

    def prune(self, spared: str) -> None:
        """Bring all results together below FARHAND_SETUP_CACHE_BYTES, the least recently used first."""
        kept = [(path, path.stat()) for path in self._root.glob("*.tar")]
        size = sum(found.st_size for _, found in kept)
        for path, found in sorted(kept, key=lambda one: one[1].st_mtime):
            if size <= self._settings.setup_cache_bytes:
                return
            if path.stem != spared:
                log.info("forgetting a setup's result of %d bytes", found.st_size, extra={"action": "setup_pruned"})
                path.unlink(missing_ok=True)
                size -= found.st_size

    def _sweep_key(self, key: str) -> None:
        lock = self._lock(key)
        if lock is None:
            return
        try:
            self._remove_parts(key)
            if not (self._root / f"{key}.tar").exists():
                (self._root / f"{key}.lock").unlink(missing_ok=True)
        finally:
            os.close(lock)

    def _lock(self, key: str) -> int | None:
        """A descriptor that holds the lock, as long as it is open."""
        path = self._root / f"{key}.lock"
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                pass
            os.close(descriptor)  # a sweep has removed it meanwhile: what we have locked is nobody's

    def _remove_parts(self, key: str) -> None:
        for part in self._root.glob(f"{key}.*.part"):
            part.unlink(missing_ok=True)


class Building:
    """One result under way. Parts come from a sandbox: their offsets and their number are not believed."""

    def __init__(self, store: SetupStore, root: Path, key: str, lock: int, settings: Settings) -> None:
        self._store = store
        self._key = key
        self._kept = root / f"{key}.tar"
        self._part = root / f"{key}.{secrets.token_hex(4)}.part"
        self._lock: int | None = lock
        self._floor = settings.min_free_bytes
        # Headers and padding of many small files can double what they hold.
        self._most = 2 * settings.sandbox_disk_bytes
        self._size = 0
        self._digest = hashlib.sha256()

    def part(self, offset: int, data: bytes) -> None:
        """Add a piece; offset 0 begins anew, and a repeat of what is there changes nothing.

        Raises InvalidInputError, SetupTooLargeError, SetupNotKeptError.
        """
        self._require_open()
        if len(data) > MAX_PART_BYTES:
            raise InvalidInputError(f"a part of {len(data):,} bytes; {MAX_PART_BYTES:,} are taken")
        if offset == 0:
            self._size, self._digest = 0, hashlib.sha256()
        elif offset > 0 and offset + len(data) <= self._size:
            return
        if offset != self._size:
            raise InvalidInputError(f"a part at {offset}, where {self._size} is next")
        if offset + len(data) > self._most:
            raise SetupTooLargeError(f"the setup script has left more than {self._most:,} bytes")
        if shutil.disk_usage(self._part.parent).free - len(data) < self._floor:
            raise SetupNotKeptError("there is no room on the worker's host for what the setup script has left")
        with self._part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def done(self, size: int, sha256: str, target: Path) -> None:
        """All parts are there: the result is kept, and readable as `target`. A repeat changes nothing.

        Raises InvalidInputError: it is not what was announced.
        """
        if self._lock is None and self._store.fetch(self._key, target):
            return
        self._require_open()
        if (size, sha256) != (self._size, self._digest.hexdigest()):
            raise InvalidInputError(f"{self._size:,} bytes of what the setup left have come, not {size:,}; or others")
        self._part.chmod(0o444)
        target.unlink(missing_ok=True)
        target.hardlink_to(self._part)
        self._part.rename(self._kept)
        self.give_up()
        self._store.prune(self._key)

    def give_up(self) -> None:
        """Once; later calls do nothing. Whoever waits may begin."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._part.unlink(missing_ok=True)
            os.close(lock)

    def _require_open(self) -> None:
        if self._lock is None:
            raise InvalidInputError("what the setup left was taken already")
