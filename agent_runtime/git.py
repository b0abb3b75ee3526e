"""Git as the helper runs it: with an environment of its own, so that only what we say configures it."""

from __future__ import annotations

import errno
import os
import subprocess

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class GitError(Exception):
    """Git ended with an error; the message is what it wrote, shortened."""


class Git:
    """Runs git in one repository. `git_dir` and `work_tree` are absolute."""

    def __init__(self, git_dir: str, work_tree: str, environment: dict[str, str]) -> None:
        self._cwd = work_tree
        self.environment = {
            **environment,
            "GIT_DIR": git_dir,
            "GIT_WORK_TREE": work_tree,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "HOME": git_dir,  # git before 2.32 does not know GIT_CONFIG_GLOBAL
            "LC_ALL": "C",
        }

    def __call__(self, *args: str, stdin: bytes = b"") -> bytes:
        """Returns what it printed. Raises GitError, and BlockingIOError when there are no more processes."""
        done = self.run(*args, stdin=stdin)
        if done.returncode:
            _raise_if_exhausted(message_of(done))
            raise GitError(f"git {args[0]}: {message_of(done)}")
        return done.stdout

    def run(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["git", *args],
            cwd=self._cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            check=False,
        )

    def read_at_most(self, limit: int, *args: str, stdin: bytes) -> bytes | None:
        """For output that may be huge, of a git that reads all its input first. None when it is over the limit."""
        with subprocess.Popen(
            ["git", *args],
            cwd=self._cwd,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin and process.stdout  # noqa: S101, PT018  (both are pipes)
            process.stdin.write(stdin)
            process.stdin.close()
            output = process.stdout.read(limit + 1)
            if len(output) > limit:
                process.kill()
                return None
        if process.returncode:
            raise GitError(f"git {args[0]}: exit code {process.returncode}")
        return output


def message_of(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode(errors="replace").strip()
    return text[-600:] or f"exit code {done.returncode}"


def _raise_if_exhausted(message: str) -> None:
    """Git's own children and threads count against the limit too."""
    if os.strerror(errno.EAGAIN) in message:
        raise BlockingIOError(errno.EAGAIN, message)


def init(git_dir: str, objects: str, head: str, object_id: str) -> None:
    """Make a repository by hand, which is faster than `git init`: objects borrowed, hooks and templates none.

    `head` is what HEAD says; `object_id` tells the object format by its length.
    """
    for directory in ("objects/info", "objects/pack", "refs/heads", "info"):
        os.makedirs(os.path.join(git_dir, directory))
    sha256 = len(object_id) == 64
    config = ["[core]", f"\trepositoryformatversion = {int(sha256)}", "\tfilemode = true", "\tbare = false"]
    config += ["[extensions]", "\tobjectformat = sha256"] if sha256 else []
    config += ["[gc]", "\tauto = 0", "[pack]", "\tthreads = 1"]
    for name, text in {"config": "\n".join(config), "HEAD": head, "objects/info/alternates": objects}.items():
        write(os.path.join(git_dir, name), text)


def write(path: str, line: str) -> None:
    with open(path, "w") as file:
        file.write(line + "\n")
