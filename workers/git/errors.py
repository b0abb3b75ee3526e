"""What git says when it fails, as errors for a person."""

from __future__ import annotations

import re
from typing import NamedTuple

from infra.errors import TaskFailedError

MAX_DETAIL_CHARS = 300
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]")
_TELLING = re.compile(r"(?:(?:remote|fatal|error):\s*)+(?!failed to push some refs)(\S.*)")


class CommandFailed(Exception):  # noqa: N818 - an outcome that callers translate into an error of the product
    """A git command that did not end with 0. `reason` is `status`, `timeout` or `output`."""

    def __init__(self, reason: str, stdout: bytes, stderr: str) -> None:
        super().__init__(f"git: {reason}: {stderr[-500:]}")
        self.reason = reason
        self.stdout = stdout
        self.stderr = stderr


class GitError(TaskFailedError):
    """Read what git said in the message, correct it, then retry the task."""

    code = "git_failed"


class _Rule(NamedTuple):
    """`said` is searched in stderr of git (LC_ALL=C, or a host's own words); `{url}` and `{detail}` are filled in."""

    code: str
    said: str
    message: str
    hint: str


_TRY_LATER = "Check that the host is up and reachable from the worker, then retry the task."
_RETRY = "Retry the task; if it happens again, look at the host's log."
_KEPT = "; the work is kept and can be downloaded as a diff."

# Of each list, the first rule that is found decides.
_ANY_REMOTE = (
    _Rule(
        "repo_auth_failed",
        r"could not read (Username|Password)|Authentication failed|returned error: 401",
        "{url} does not exist, or needs other credentials than it was given",
        "Check the URL; for a private repository give the project a git token that may read and write it.",
    ),
    _Rule(
        "repo_redirected",
        r"returned error: 30\d|unable to update url base from redirection",
        "{url} redirects to another address, and redirects are not followed",
        "Open the URL in a browser and use the address it ends at; the repository may have been renamed.",
    ),
    _Rule(
        "repo_not_found",
        r"[Rr]epository .*not found|returned error: (404|410)|not valid: is this a git repository"
        r"|does not appear to be a git repository",
        "there is no git repository at {url}",
        "Check the URL; if the repository is private, give the project a git token that may read it.",
    ),
    _Rule(
        "repo_unreachable",
        r"returned error: 429",
        "the host of {url} answered that there were too many requests",
        "Wait some minutes, then retry the task; a git token usually raises the limit.",
    ),
    _Rule("repo_unreachable", r"returned error: 5\d\d", "the host of {url} failed: {detail}", _TRY_LATER),
    _Rule(
        "repo_unreachable",
        r"SSL|certificate|TLS",
        "no secure connection to {url}: {detail}",
        "Check the host's certificate; the worker takes private CAs from SSL_CERT_FILE or GIT_SSL_CAINFO.",
    ),
    _Rule(
        "repo_unreachable",
        r"unable to access|unable to connect|timed out|hung up unexpectedly|RPC failed|early EOF|unexpected disconnect"
        r"|expected flush|invalid server response|bad line length|protocol error",
        "the connection to {url} failed: {detail}",
        _TRY_LATER,
    ),
)

_FETCH = (
    _Rule(
        "repo_too_large",
        r"File too large|Out of memory|malloc.* failed|Cannot allocate memory",
        "{url} is larger than this deployment takes",
        "Ask the operator to raise FARHAND_MAX_REPO_BYTES, or use a smaller repository.",
    ),
    _Rule(
        "worker_disk_full",
        r"No space left on device|Disk quota exceeded",
        "the disk of the worker's host is full",
        "The operator frees space below FARHAND_RUN_DIR; then retry the task.",
    ),
    _Rule(
        "commit_gone",
        r"couldn't find remote ref|not our ref|no such remote ref|unadvertised object",
        "a commit that this task builds on no longer exists at {url}",
        "The branch was rewritten or deleted: send the prompt as a new task.",
    ),
    _Rule(
        "repo_auth_failed",
        r"returned error: 403",
        "the host refuses to let {url} be read",
        "Check that the project's git token is valid and may read this repository.",
    ),
    *_ANY_REMOTE,
    _Rule(
        "repo_malformed",
        r"fsck error|index-pack failed|fetch-pack|bad object|invalid|corrupt|did not send all",
        "{url} holds objects that git refuses: {detail}",
        "Run `git fsck --strict` in a clone and repair what it names.",
    ),
)

_PUSH = (
    _Rule(
        "push_forbidden",
        r"without `?workflow`? scope",
        "the git token may not change workflow files: {detail}",
        "Give the project a git token with the `workflow` scope, then retry the task" + _KEPT,
    ),
    _Rule(
        "push_failed",
        r"GH001|file size limit|larger than .* limit",
        "{url} does not take files of that size: {detail}",
        "Ask the agent to remove the large file, or to keep it out of git" + _KEPT,
    ),
    _Rule("push_failed", r"bad object|unpack(er)? (error|failed)", "{url} could not unpack the push: {detail}", _RETRY),
    _Rule(
        "push_non_fast_forward",
        r"stale info|fetch first|non-fast-forward|cannot lock ref|failed to update ref|already exists",
        "the task's branch was changed at {url} by someone else",
        "Rename or delete that branch, then retry the task" + _KEPT,
    ),
    _Rule(
        "push_rejected_protected",
        r"[Pp]rotected branch|GH006|GH013|rule violations|hook declined|not allowed to push|prohibited|deny updating",
        "{url} rejected the task's branch: {detail}",
        "Allow branches named farhand/* in the repository's branch protection and hooks, then retry the task" + _KEPT,
    ),
    _Rule(
        "push_forbidden",
        r"returned error: 403|Permission to .* denied|service not enabled|access denied|read-only|archived",
        "{url} may not be written with the credentials that were given",
        "Give the project a git token that may write to the repository, then retry the task" + _KEPT,
    ),
    *_ANY_REMOTE,
)


def fetch_error(failure: CommandFailed, url: str) -> GitError:
    """Why a repository could not be read."""
    return _translated(failure, _FETCH, url) or _untold(failure, "git_failed", f"reading {url}")


def push_error(failure: CommandFailed, url: str) -> GitError:
    """Why a branch could not be pushed. stdout counts too: `git push --porcelain` says there what was rejected."""
    return _translated(failure, _PUSH, url) or _untold(failure, "push_failed", f"pushing to {url}")


def local_error(failure: CommandFailed, doing: str) -> GitError:
    """Why a command in a repository of our own failed."""
    return _untold(failure, "git_failed", doing)


def detail_of(failure: CommandFailed) -> str:
    """The lines of git's message that say why, as one bounded line without control characters."""
    lines = [" ".join(_CONTROL.sub(" ", line).split()) for line in re.split(r"[\r\n]+", _said(failure))]
    telling = [match[1] for line in lines if (match := _TELLING.match(line))]
    return "; ".join(telling or filter(None, lines))[:MAX_DETAIL_CHARS] or "git gave no reason"


def _said(failure: CommandFailed) -> str:
    return failure.stderr + failure.stdout.decode(errors="replace")


def _translated(failure: CommandFailed, rules: tuple[_Rule, ...], url: str) -> GitError | None:
    if failure.reason != "status":
        return None
    said = _said(failure)
    for rule in rules:
        if re.search(rule.said, said):
            return GitError(rule.message.format(url=url, detail=detail_of(failure)), hint=rule.hint, code=rule.code)
    return None


def _untold(failure: CommandFailed, code: str, doing: str) -> GitError:
    if failure.reason == "timeout":
        return GitError(
            f"{doing} took longer than the deployment's git timeout",
            hint="Retry the task; if it happens again, ask the operator to raise FARHAND_GIT_TIMEOUT.",
            code="repo_timeout",
        )
    if failure.reason == "output":
        return GitError(
            f"{doing} gave more output than is taken",
            hint="The repository has more files or branches than this deployment takes.",
            code="repo_too_large",
        )
    return GitError(f"{doing} failed: {detail_of(failure)}", code=code)
