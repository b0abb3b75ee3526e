"""Which repositories a task may name, and which addresses a worker may connect to for them.

`check_repo_url` judges the text when a task is posted; `resolve_pinned` judges what DNS says when a worker
connects, because a name that was harmless at first may point to a private address a second later.

`allowed` is `settings.allowed_repo_hosts`: `host` or `host:port` literals that may be private or plain http, and
the word `file`, which admits `file:` URLs.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, unquote, urlsplit

from infra.errors import RepoRefusedError
from infra.hosts import in_authority, is_public, looks_private, normal_host

MAX_URL_CHARS = 2000
MAX_AUTHORITY_CHARS = 300  # scheme, a name of 253 characters, port
_DEFAULT_PORTS = {"https": 443, "http": 80}
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SCP_LIKE = re.compile(r"(?:[^/@]+@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^/].*)")


@dataclass(frozen=True)
class Endpoint:
    """Whom a repository URL connects to: a host name or address literal in normal form, and a port."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """The host as it stands in a URL: an IPv6 address in brackets."""
        return in_authority(self.host)

    def listed(self, allowed: tuple[str, ...]) -> bool:
        names = {self.host, self.authority, f"{self.authority}:{self.port}"}
        return any(entry.lower() in names for entry in allowed)


def check_repo_url(url: str, allowed: tuple[str, ...]) -> str:
    """The URL in normal form: lower-case scheme and host, no default port, no trailing slash.

    Nothing is resolved and nothing is connected to. Idempotent.

    Raises:
        RepoRefusedError: with the code `repo_url_invalid`, `repo_url_has_credentials`, `repo_scheme_refused` or
            `repo_host_private`. Its message never repeats credentials.
    """
    _check_characters(url)
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise _credentials_refused()
        if parts.scheme == "file":
            return _check_file_url(parts, allowed)
        if parts.scheme not in _DEFAULT_PORTS:
            raise _scheme_refused(url, parts)
        where = Endpoint(_host_of(parts), _port_of(parts))
    except ValueError:  # urlsplit's verdict on brackets, on ports and on characters that pose as separators
        raise _invalid("is not a URL of the form https://host/path") from None
    _check_endpoint(parts.scheme, where, allowed)
    port = "" if where.port == _DEFAULT_PORTS[parts.scheme] else f":{where.port}"
    return f"{parts.scheme}://{where.authority}{port}{_normal_path(parts.path)}"


def endpoint(url: str) -> Endpoint | None:
    """Whom a URL that `check_repo_url` returned connects to; None for `file:`."""
    parts = urlsplit(url)
    return Endpoint(parts.hostname or "", _port_of(parts)) if parts.scheme in _DEFAULT_PORTS else None


def resolve_pinned(where: Endpoint, allowed: tuple[str, ...]) -> list[str]:
    """Every address of a host, each of them checked, in the order of preference. Connect to these and no others.

    Raises:
        RepoRefusedError: `repo_host_private`, when any address is not public and the host is not listed.
        OSError: DNS does not know the name or did not answer.
    """
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not where.listed(allowed) and not all(is_public(ip_address(address)) for address in addresses):
        raise _private_host(where)
    return addresses


def _check_characters(url: str) -> None:
    if not url or len(url) > MAX_URL_CHARS:
        raise _invalid(f"must have 1 to {MAX_URL_CHARS} characters")
    if any(char.isspace() or not char.isprintable() for char in url) or "\\" in url:
        raise _invalid("contains white space, a control character or a backslash")
    if url.startswith("-"):
        raise _invalid("looks like a command option")
    if "?" in url or "#" in url:
        raise _invalid("must have neither a query nor a fragment")


def _check_endpoint(scheme: str, where: Endpoint, allowed: tuple[str, ...]) -> None:
    if where.listed(allowed):
        return
    if looks_private(where.host):
        raise _private_host(where)
    if scheme == "http":
        raise RepoRefusedError(
            f"repo_url: plain http is not allowed for {where.host}",
            hint="Use https, or ask the operator to list the host in FARHAND_ALLOWED_REPO_HOSTS.",
            code="repo_scheme_refused",
        )


def _host_of(parts: SplitResult) -> str:
    return normal_host(parts.hostname or "", bracketed=parts.netloc.startswith("["))


def _port_of(parts: SplitResult) -> int:
    port = parts.port
    if port == 0:
        raise ValueError("port 0")
    return port or _DEFAULT_PORTS[parts.scheme]


def _normal_path(path: str) -> str:
    """The path in ASCII. Raises RepoRefusedError where it is empty, climbs, or hides a control character."""
    plain = unquote(path)
    if any(not char.isprintable() for char in plain) or "\\" in plain or _BROKEN_ESCAPE.search(path):
        raise _invalid("hides a control character, a backslash or a broken % escape in its path")
    if any(segment in {".", ".."} for segment in plain.split("/")):
        raise _invalid("must not have `.` or `..` in its path")
    normal = quote(path.rstrip("/"), safe="/%!$&'()*+,;=:@~-._")
    if not normal:
        raise _invalid("names no repository: the path is empty")
    if len(normal) > MAX_URL_CHARS - MAX_AUTHORITY_CHARS:
        raise _invalid("has a path that is too long")
    return normal


def _check_file_url(parts: SplitResult, allowed: tuple[str, ...]) -> str:
    if "file" not in allowed:
        raise RepoRefusedError(
            "repo_url: `file:` repositories are not allowed here",
            hint="Use the https address of the repository, or ask the operator to list `file` in "
            "FARHAND_ALLOWED_REPO_HOSTS.",
            code="repo_scheme_refused",
        )
    if parts.netloc or not parts.path.startswith("/"):
        raise _invalid("must be file:///absolute/path")
    return f"file://{_normal_path(parts.path)}"


def _scheme_refused(url: str, parts: SplitResult) -> RepoRefusedError:
    scp_like = None if "://" in url or "::" in url else _SCP_LIKE.fullmatch(url)
    if scp_like is not None:
        hint = f"Use https://{scp_like['host']}/{scp_like['path']} and, if it is private, a git token."
        return RepoRefusedError("repo_url: ssh addresses are not supported", hint=hint, code="repo_scheme_refused")
    if not parts.scheme:
        return _invalid("is not a URL of the form https://host/path")
    return RepoRefusedError(
        f"repo_url: the scheme `{parts.scheme}` is not supported",
        hint="Use the https address of the repository and, if it is private, a git token.",
        code="repo_scheme_refused",
    )


def _credentials_refused() -> RepoRefusedError:
    return RepoRefusedError(
        "repo_url: must not contain a user name or a password",
        hint="Give the plain address, and the token as the project's git_token.",
        code="repo_url_has_credentials",
    )


def _private_host(where: Endpoint) -> RepoRefusedError:
    return RepoRefusedError(
        f"repo_url: {where.host} is a private, local or reserved address",
        hint=f"Use a public host, or ask the operator to list `{where.authority}:{where.port}` in "
        "FARHAND_ALLOWED_REPO_HOSTS.",
        code="repo_host_private",
    )


def _invalid(what: str) -> RepoRefusedError:
    return RepoRefusedError(
        f"repo_url: {what}",
        hint="Give the https address of a git repository, such as https://github.com/owner/name.",
        code="repo_url_invalid",
    )
