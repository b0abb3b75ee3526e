"""One git command: our configuration and nothing else, bounded in every direction.

Settings travel in the environment (`GIT_CONFIG_COUNT`), which only processes of the same user can read: neither
the command line nor any file ever holds a credential.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from infra.errors import ConfigurationError
from infra.settings import Settings
from workers.git.errors import CommandFailed
from workers.git.remote import Remote

MAX_OUTPUT_BYTES = 64 * 2**20
MAX_STDERR_CHARS = 64 * 1024
MAX_MEMORY_BYTES = 4 * 2**30
_PIECE = 64 * 1024
OLDEST_GIT = (2, 37)  # the first that can pin an address (http.curloptResolve)

# Old repositories carry these harmless blemishes in their history; refusing them would refuse the repository.
_BLEMISHES = (
    "badDate", "badDateOverflow", "badEmail", "badFilemode", "badName", "badParentSha1", "badTagName", "badTimezone",
    "duplicateEntries", "emptyName", "missingAuthor", "missingEmail", "missingNameBeforeEmail",
    "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "missingTaggerEntry", "multipleAuthors", "nullSha1",
    "zeroPaddedDate", "zeroPaddedFilemode",
)  # fmt: skip

_CONFIG = (
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.bigFileThreshold", "16m"),  # larger blobs are streamed, never held, and shown as binary in a diff
    ("core.packedGitWindowSize", "32m"),
    ("core.packedGitLimit", "256m"),  # with the line above: mapped packs stay far below the memory limit
    ("credential.helper", ""),
    ("fetch.fsckObjects", "true"),
    ("fetch.unpackLimit", "1"),  # every fetch is kept as a pack: packs are what sandboxes share
    ("fetch.writeCommitGraph", "false"),
    ("gc.auto", "0"),
    ("http.followRedirects", "false"),  # also turns off the alternates of dumb HTTP servers
    ("init.defaultBranch", "main"),
    ("maintenance.auto", "false"),
    ("pack.threads", "4"),
    ("protocol.version", "2"),
    ("push.recurseSubmodules", "no"),
    ("submodule.recurse", "false"),
    ("transfer.bundleURI", "false"),
    *((f"fetch.fsck.{blemish}", "ignore") for blemish in _BLEMISHES),
)
_PASSED_ON = ("PATH", "TMPDIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")

# Limits are set in a shell because a hook between fork and exec is not safe in a process with threads. A limit that
# cannot be raised is stricter already. XFSZ is ignored so that git reports "File too large" and cleans up.
_WITH_LIMITS = """umask 022; trap '' XFSZ
for limit in "-c 0" "-f $1" "-v $2"; do ulimit $limit 2>/dev/null || :; done
shift 2; exec git "$@" """


class Git:
    """Runs git within the bounds of the settings. Safe to share between threads and greenlets."""

    def __init__(self, settings: Settings) -> None:
        require_git()
        self.settings = settings

    def run(
        self,
        *arguments: str,
        git_dir: Path | None = None,
        remote: Remote | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        max_output: int = MAX_OUTPUT_BYTES,
        max_file_bytes: int | None = None,
        max_memory: int = MAX_MEMORY_BYTES,
        on_progress: Callable[[str], None] | None = None,
    ) -> bytes:
        """What the command printed.

        `max_file_bytes` bounds each file that it writes (default: the largest repository), `max_memory` its address
        space. `on_progress` gets pieces of stderr as they come, in the caller's thread.

        Raises:
            CommandFailed: with stderr, in which the remote's secrets are masked.
            GitError: the remote's name does not resolve to an address that may be used.
        """
        argv = _limited(arguments, max_file_bytes or self.settings.max_repo_bytes, max_memory)
        env = _environment(git_dir, remote, self.settings.git_idle_timeout) | dict(environment or {})
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            run = _Run(argv, env, given, max_output)
            return run.finish(self.settings.git_timeout, on_progress, remote.secrets() if remote else ())


class _Run:
    """One process group: its stderr is read by the caller's thread, its stdout by another, a timer ends it."""

    def __init__(self, argv: list[str], env: dict[str, str], stdin: IO[bytes], max_output: int) -> None:
        self._ended_by: str | None = None
        self._max_output = max_output
        self._stdout = bytearray()
        self._stderr = ""
        self._process = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd="/", start_new_session=True
        )
        self._pipes = cast("BufferedReader", self._process.stdout), cast("BufferedReader", self._process.stderr)

    def finish(self, timeout: float, on_progress: Callable[[str], None] | None, secrets: Iterable[str]) -> bytes:
        timer = threading.Timer(timeout, self._kill, args=("timeout",))
        reader = threading.Thread(target=self._read_stdout, daemon=True)
        timer.daemon = True
        timer.start()
        reader.start()
        try:
            self._read_stderr(on_progress)
            reader.join()
            status = self._process.wait()
        finally:
            timer.cancel()
            if self._process.poll() is None:
                self._kill("interrupted")
                self._process.wait()
            reader.join()
            for pipe in self._pipes:
                pipe.close()
        if status or self._ended_by:
            raise CommandFailed(self._ended_by or "status", bytes(self._stdout), _masked(self._stderr, secrets))
        return bytes(self._stdout)

    def _kill(self, why: str) -> None:
        self._ended_by = self._ended_by or why
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read_stdout(self) -> None:
        while piece := self._pipes[0].read1(_PIECE):
            self._stdout += piece
            if len(self._stdout) > self._max_output:
                del self._stdout[self._max_output :]
                self._kill("output")
                return

    def _read_stderr(self, on_progress: Callable[[str], None] | None) -> None:
        while piece := self._pipes[1].read1(_PIECE):
            text = piece.decode(errors="replace")
            self._stderr = (self._stderr + text)[-MAX_STDERR_CHARS:]
            if on_progress is not None:
                on_progress(text)


@lru_cache(maxsize=1)
def require_git() -> None:
    """Raises ConfigurationError when git is missing or too old to pin an address."""
    wanted = ".".join(map(str, OLDEST_GIT))
    try:
        said = subprocess.run(["git", "version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        raise ConfigurationError("git does not run on this host", hint=f"Install git {wanted} or newer.") from None
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_GIT:
        raise ConfigurationError(f"{said.strip()} is too old", hint=f"Install git {wanted} or newer.")


def _limited(arguments: Iterable[str], max_file_bytes: int, max_memory: int) -> list[str]:
    blocks, kibibytes = max_file_bytes // 512 + 1, max_memory // 1024
    return ["sh", "-c", _WITH_LIMITS, "sh", str(blocks), str(kibibytes), *arguments]


def _environment(git_dir: Path | None, remote: Remote | None, idle_timeout: float) -> dict[str, str]:
    # Git ends by itself when its remote falls silent, also after its worker was killed and nobody waits for it.
    patience = [("http.lowSpeedLimit", "1"), ("http.lowSpeedTime", str(max(1, round(idle_timeout))))]
    config = [*_CONFIG, *patience, *(remote.config() if remote else ())]
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if "SSL_CERT_FILE" in os.environ:
        env.setdefault("GIT_SSL_CAINFO", os.environ["SSL_CERT_FILE"])
    env |= {
        "HOME": "/nonexistent",  # no ~/.netrc, no ~/.config/git
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_ALLOW_PROTOCOL": remote.protocol if remote else "none",
        "GIT_DIR": str(git_dir or os.devnull),  # never one that git finds by itself
        "GIT_CONFIG_COUNT": str(len(config)),
    }
    for index, (key, value) in enumerate(config):
        env |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    return env


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
