"""A repository elsewhere: its checked address, pinned for each command, and the credentials of one command."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.errors import RepoRefusedError
from infra.repo_url import Endpoint, check_repo_url, endpoint, resolve_pinned
from infra.settings import Settings
from workers.git.errors import GitError

# What runs at the other end of a `file:` URL is a git of ours, in a repository that is not: its hooks and the
# programs that its configuration names stay off there too, and it may belong to another user of this machine.
_FILE_END = (
    "git -c 'safe.directory=*' -c core.hooksPath=/dev/null -c core.fsmonitor=false"
    " -c core.alternateRefsCommand=true -c receive.autogc=false"
)


@dataclass(frozen=True)
class Credentials:
    """HTTP Basic credentials of a git host."""

    username: str
    password: str = field(repr=False)

    def header(self) -> str:
        return "Authorization: Basic " + self._encoded()

    def secrets(self) -> tuple[str, ...]:
        """Every form in which the password could come back in a message of the remote."""
        return tuple(secret for secret in (self.password, self._encoded()) if secret)

    def _encoded(self) -> str:
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Remote:
    """One repository URL with what a command needs to reach it. Made by `Remote.at`, which checks the URL."""

    url: str
    credentials: Credentials | None
    allowed: tuple[str, ...]

    @classmethod
    def at(cls, url: str, credentials: Credentials | None, settings: Settings) -> Remote:
        """Raises GitError when the settings of this worker do not admit the URL."""
        try:
            return cls(check_repo_url(url, settings.allowed_repo_hosts), credentials, settings.allowed_repo_hosts)
        except RepoRefusedError as refused:
            raise GitError(refused.message, hint=refused.hint, code=refused.code) from None

    @property
    def protocol(self) -> str:
        return self.url.partition(":")[0]

    def config(self) -> Iterator[tuple[str, str]]:
        """Git settings for one command now: the name is resolved, checked and pinned at this moment.

        Raises:
            GitError: `repo_host_private` or `repo_unreachable`.
        """
        where = endpoint(self.url)
        if where is None:
            return
        yield "http.curloptResolve", _pin(where, self._addresses(where))
        if self.credentials is not None:
            yield "http.extraHeader", self.credentials.header()

    def far_end(self, program: str) -> tuple[str, ...]:
        """The option that names what runs at the other end, `upload-pack` or `receive-pack`; none over HTTP."""
        return (f"--{program}={_FILE_END} {program}",) if self.protocol == "file" else ()

    def secrets(self) -> tuple[str, ...]:
        return self.credentials.secrets() if self.credentials else ()

    def _addresses(self, where: Endpoint) -> list[str]:
        try:
            return resolve_pinned(where, self.allowed)
        except RepoRefusedError as refused:
            raise GitError(refused.message, hint=refused.hint, code=refused.code) from None
        except OSError:
            raise GitError(
                f"the name {where.host} cannot be resolved",
                hint="Check the host in the repository's URL, and the DNS of the worker's host; then retry the task.",
                code="repo_unreachable",
            ) from None


def _pin(where: Endpoint, addresses: list[str]) -> str:
    listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    return f"{where.authority}:{where.port}:{listed}"
