"""The push: one commit to one branch, compare-and-set (G8)."""

from __future__ import annotations

import re

from infra.settings import Settings
from workers.git.command import Git
from workers.git.errors import CommandFailed, GitError, fetch_error, push_error
from workers.git.remote import Credentials, Remote
from workers.git.repo import TaskRepo, checked_id

_BRANCH = re.compile(r"farhand/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAKEN = {" ", "+", "*", "="}  # flags of `git push --porcelain`: fast-forward, forced, new, already there


def publish(
    repo: TaskRepo, url: str, credentials: Credentials | None, *, branch: str, sha: str, expected: str | None
) -> None:
    """Make `branch` of the remote point to the commit `sha`, if it points to `expected` now (None: does not exist).

    It returns only when the remote has said that the branch is there. It is there already: that is success, so a
    push whose answer was lost can be repeated.

    Raises:
        GitError: `push_non_fast_forward` (someone else moved the branch), `push_rejected_protected`,
            `push_forbidden`, `push_failed`, `push_branch_refused` (no branch of a task), `repo_*`.
    """
    ref = f"refs/heads/{_checked_branch(branch)}"
    remote = Remote.at(url, credentials, repo.git.settings)
    lease = f"--force-with-lease={ref}:{checked_id(expected) if expected else ''}"
    try:
        said = repo.git.run(
            "push", "--porcelain", "--no-follow-tags", "--no-signed", lease,
            *remote.far_end("receive-pack"), remote.url, f"{checked_id(sha)}:{ref}",
            git_dir=repo.path, remote=remote,
        )  # fmt: skip
        if _was_taken(said, ref):
            return
        raise CommandFailed("status", said, "")
    except CommandFailed as failure:
        # The answer may have been lost on its way, after the push was done.
        if _head_after_failure(remote, repo.git, ref) != sha:
            raise push_error(failure, remote.url) from None


def remote_head(url: str, credentials: Credentials | None, branch: str, settings: Settings) -> str | None:
    """The commit that a task's branch points to at the remote, None when there is no such branch.

    Raises:
        GitError: `repo_*`, `push_branch_refused`.
    """
    ref = f"refs/heads/{_checked_branch(branch)}"
    return _head(Remote.at(url, credentials, settings), Git(settings), ref)


def _head(remote: Remote, git: Git, ref: str) -> str | None:
    try:
        said = git.run("ls-remote", *remote.far_end("upload-pack"), remote.url, ref, remote=remote)
    except CommandFailed as failure:
        raise fetch_error(failure, remote.url) from None
    found = (line.partition("\t") for line in said.decode(errors="replace").splitlines())
    return next((sha for sha, _, name in found if name == ref), None)


def _head_after_failure(remote: Remote, git: Git, ref: str) -> str | None:
    try:
        return _head(remote, git, ref)
    except GitError:
        return None  # the failure of the push tells more


def _was_taken(said: bytes, ref: str) -> bool:
    """Whether the remote reported this very ref as updated: lines are `<flag>\t<from>:<to>\t<summary>`."""
    lines = [line.split("\t") for line in said.decode(errors="replace").splitlines()]
    return any(len(line) == 3 and line[0] in _TAKEN and line[1].endswith(f":{ref}") for line in lines)


def _checked_branch(branch: str) -> str:
    if not _BRANCH.fullmatch(branch):
        raise GitError(
            f"{branch[:80]!r} is not the branch of a task",
            hint="Farhand pushes to farhand/<task id> only; report this.",
            code="push_branch_refused",
        )
    return branch
