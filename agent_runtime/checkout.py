"""Puts the task's files into the workspace: a repository of its own that borrows all its objects."""

from __future__ import annotations

import os
import shutil

from agent_runtime import git
from agent_runtime.beneath import locate
from agent_runtime.git import Git, GitError
from agent_runtime.protocol import Failure, Workspace
from agent_runtime.removal import remove_tree
from agent_runtime.sandbox_paths import Paths
from agent_runtime.snapshot import snapshot_git

AGENT_FILES = ("AGENTS.md", "CLAUDE.md")
AGENT_FILE_BYTES = 32768


class CheckoutFailed(Exception):
    """Carries the Failure that the task ends with."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(
            code="checkout_failed",
            message=f"The repository could not be checked out: {message}",
            hint="See that the repository fits into the sandbox's disk, then retry the task.",
        )


def checkout(paths: Paths, workspace: Workspace) -> tuple[str, str]:
    """Returns the id of the work tree and what the repository's agent files say.

    HEAD is `head` on the task's branch, so that the agent's own git commands work; a restored `tree` lies over it
    as uncommitted changes. Whatever an earlier try has left is removed first. Raises CheckoutFailed, and
    BlockingIOError when there are no more processes.
    """
    try:
        _check_out_head(paths, workspace)
        agent_files = _agent_files(paths.repo)
        return _restore(paths, workspace), agent_files
    except BlockingIOError:
        raise
    except (GitError, OSError) as error:
        raise CheckoutFailed(str(error)) from error


def _check_out_head(paths: Paths, workspace: Workspace) -> None:
    for directory in (paths.repo, paths.snapshots):
        remove_tree(directory)
    os.makedirs(paths.repo)
    repository = os.path.join(paths.repo, ".git")
    branch, head = f"refs/heads/{workspace['branch']}", workspace["head"]
    git.init(repository, paths.objects, f"ref: {branch}", head)
    os.makedirs(os.path.dirname(os.path.join(repository, branch)), exist_ok=True)
    git.write(os.path.join(repository, branch), head)
    Git(repository, paths.repo, paths.environment())("reset", "--hard", "--quiet")


def _restore(paths: Paths, workspace: Workspace) -> str:
    """Start the private repository of the snapshots with the checked-out index, and restore over it."""
    git.init(paths.snapshots, paths.objects, workspace["head"], workspace["head"])
    index = os.path.join(paths.repo, ".git", "index")
    if os.path.exists(index):
        shutil.copyfile(index, os.path.join(paths.snapshots, "index"))
    run = snapshot_git(paths)
    if workspace["tree"]:
        run("read-tree", "--reset", "-u", workspace["tree"])
    return run("write-tree").decode().strip()


def _agent_files(repo: str) -> str:
    """Instructions that the repository has for agents, of the branch as it was before this task's changes."""
    parts = []
    for name in AGENT_FILES:
        text = _regular_file(repo, name)
        if text is not None and text.strip():
            parts.append(f"# {name} of the repository\n\n{text.strip()}")
    return "\n\n".join(parts)


def _regular_file(repo: str, name: str) -> str | None:
    """The file's text; None for a file that is not there, or one that is only another name of another."""
    try:
        if os.path.islink(os.path.join(repo, name)):
            return None
        with locate(repo, name) as place, open(place.open(os.O_RDONLY), "rb") as file:
            data = file.read(AGENT_FILE_BYTES + 1)
    except OSError:
        return None
    text = data[:AGENT_FILE_BYTES].decode(errors="replace").replace("\0", "\ufffd")
    if len(data) > AGENT_FILE_BYTES:
        text += f"\n[cut after {AGENT_FILE_BYTES} bytes; read {name} for the rest]"
    return text
