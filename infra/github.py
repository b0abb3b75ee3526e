"""Which repositories are on a GitHub, and where its REST API is. Text only: nothing is resolved or connected to.

`hosts` is `settings.github_hosts`: `host`, `host:port`, or either with `=` and the base address of the REST API.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from infra.repo_url import endpoint

_PUBLIC = {"github.com": "https://api.github.com"}
_CLOUD_SUFFIX = ".ghe.com"  # Enterprise Cloud with data residency has its API at api.<name>.ghe.com


@dataclass(frozen=True, slots=True)
class GitHubRepo:
    """A repository, and the base address of the REST API that knows it, without a slash at its end."""

    api: str
    owner: str
    name: str


def github_repo(repo_url: str, hosts: tuple[str, ...]) -> GitHubRepo | None:
    """None when the repository's host is no GitHub that this deployment knows, or its path not `owner/name`.

    `repo_url` is in the normal form of `check_repo_url`.
    """
    where = endpoint(repo_url)
    if where is None:
        return None
    path = unquote(urlsplit(repo_url).path).strip("/").removesuffix(".git")
    owner, _, name = path.partition("/")
    if not owner or not name or "/" in name:
        return None
    given = _PUBLIC | {key.lower(): api for key, api in map(_entry, hosts)}
    for key in (f"{where.authority}:{where.port}", where.authority):
        if key in given:
            # An entry without an address of its own: where GitHub Enterprise Server has its API.
            api = given[key] or f"{repo_url.partition(':')[0]}://{urlsplit(repo_url).netloc}/api/v3"
            return GitHubRepo(api.rstrip("/"), owner, name)
    if where.host.endswith(_CLOUD_SUFFIX):
        return GitHubRepo(f"https://api.{where.host}", owner, name)
    return None


def check_github_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """For settings. Raises ValueError when an entry is neither a host nor has the address of an API."""
    for host in hosts:
        key, api = _entry(host)
        if not key or "/" in key or ("=" in host and not _is_address(api)):
            raise ValueError("An entry is `host` or `host=https://…`, the base address of its REST API")
    return hosts


def _entry(host: str) -> tuple[str, str]:
    key, _, api = host.partition("=")
    return key.strip(), api.strip()


def _is_address(api: str) -> bool:
    parts = urlsplit(api)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.query or "@" in parts.netloc)
