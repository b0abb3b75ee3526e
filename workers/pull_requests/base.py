"""What a git host must be able to do for pull requests. Another host is another implementation of `PullRequestHost`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from infra.errors import FarhandError


class HostRefusedError(FarhandError):
    """Correct what the message names, then ask for the pull request again; the branch is pushed."""

    code = "pull_request_refused"


class HostBusyError(FarhandError):
    """Nothing is to be done: it is tried again by itself."""

    code = "pull_request_host_failed"

    def __init__(self, message: str, *, code: str | None = None, wait_s: float | None = None) -> None:
        """`wait_s`: how long the host asks us to wait; None leaves it to us."""
        super().__init__(message, code=code)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class PullRequest:
    """One that exists. `head_sha` is the commit that it shows, or showed when it was merged or closed."""

    number: int
    url: str
    state: Literal["open", "closed", "merged"]
    body: str
    head_sha: str


@dataclass(frozen=True, slots=True)
class NewPullRequest:
    """`head` and `base` are branches of the same repository."""

    head: str
    base: str
    title: str
    body: str


class PullRequestHost(Protocol):
    """One repository at its host, with the credentials for it.

    Every method raises HostRefusedError (trying again changes nothing), HostBusyError (later it may work; whether this
    one had an effect is unknown), or AuthorityLostError (the caller's hold is gone, nothing was sent).
    """

    def find(self, head: str) -> PullRequest | None:
        """The pull request of a branch of this repository: the open one, else the newest."""

    def open(self, new: NewPullRequest) -> PullRequest:
        """As a draft where the host has drafts. Guarantee: never a second open one; returns the one that is there."""

    def update(self, number: int, *, body: str) -> PullRequest:
        """Replace its body."""
