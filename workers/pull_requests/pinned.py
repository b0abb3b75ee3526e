"""HTTP to the API of a git host, under the rules for repositories: checked addresses, pinned; no redirects, no proxies.

The name is resolved and judged for each request, and only the addresses that were judged are connected to. The
certificate is still that of the name.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx

from infra.errors import RepoRefusedError
from infra.repo_url import Endpoint, check_repo_url, endpoint, resolve_pinned
from workers.pull_requests.base import HostBusyError, HostRefusedError

REQUEST_S = 30.0
"""One request, whatever its host does; `infra.tasks.pull_requests.HOLD_S` is longer."""
MAX_ANSWER_BYTES = 8 * 2**20
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_MAX_ADDRESSES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class PinnedHttp:
    """Requests below one base address. `allowed` is `settings.allowed_repo_hosts`; `renew` is called before each."""

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str],
        *,
        allowed: tuple[str, ...],
        renew: Callable[[], None],
        timeout: httpx.Timeout = TIMEOUT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._base = base
        self._headers = dict(headers)
        self._allowed = allowed
        self._renew = renew
        self._timeout = timeout
        self._tls = tls or _certificates()

    def send(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """One request; `body` is sent as JSON. Any status is an answer.

        Raises:
            HostRefusedError: the host's addresses are not allowed.
            HostBusyError: no whole answer came. Whether the request had an effect is unknown.
        """
        where, url = self._judged(path)
        addresses = self._resolved(where)
        self._renew()
        deadline = time.monotonic() + REQUEST_S
        failure: httpx.HTTPError = httpx.ConnectError("its name has no address")
        with httpx.Client(verify=self._tls, trust_env=False, timeout=self._timeout) as client:
            for address in addresses[:_MAX_ADDRESSES]:
                request = client.build_request(
                    method,
                    url.copy_with(host=address, params=query),
                    headers={**self._headers, "Host": url.netloc.decode()},
                    json=body,
                    extensions={"sni_hostname": where.host, "timeout": self._timeout.as_dict()},
                )
                try:
                    return _whole(client, request, deadline)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = error
                except httpx.HTTPError as error:
                    raise _unreachable(where, error) from None
        raise _unreachable(where, failure) from None

    def _judged(self, path: str) -> tuple[Endpoint, httpx.URL]:
        try:
            url = check_repo_url(self._base + path, self._allowed)
        except RepoRefusedError as refused:
            raise _not_allowed(self._base, refused) from None
        where = endpoint(url)
        if where is None:
            raise HostRefusedError(f"{self._base} is no address of a REST API", hint="Correct FARHAND_GITHUB_HOSTS.")
        return where, httpx.URL(url)

    def _resolved(self, where: Endpoint) -> list[str]:
        try:
            return resolve_pinned(where, self._allowed)
        except RepoRefusedError as refused:
            raise _not_allowed(self._base, refused) from None
        except OSError:
            raise HostBusyError(
                f"the name {where.host} cannot be resolved", code="pull_request_host_unreachable"
            ) from None


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Made once, as it takes a while. SSL_CERT_FILE and SSL_CERT_DIR add private authorities."""
    return httpx.create_ssl_context()


def _whole(client: httpx.Client, request: httpx.Request, deadline: float) -> Answer:
    response = client.send(request, stream=True, follow_redirects=False)
    try:
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise httpx.ReadError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"no whole answer within {REQUEST_S:.0f} s")
        return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, bytes(content))
    finally:
        response.close()


def _unreachable(where: Endpoint, error: httpx.HTTPError) -> HostBusyError:
    # What the library says of a malformed message may repeat a header of ours.
    reason = type(error).__name__ if isinstance(error, httpx.ProtocolError) else str(error) or type(error).__name__
    return HostBusyError(f"{where.host} does not answer: {reason}", code="pull_request_host_unreachable")


def _not_allowed(base: str, refused: RepoRefusedError) -> HostRefusedError:
    reason = refused.message.removeprefix("repo_url: ")
    return HostRefusedError(
        f"the REST API at {base} may not be used: {reason}", hint=refused.hint, code="pull_request_host_refused"
    )
