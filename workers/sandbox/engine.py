"""The Docker Engine of this host: one pool of connections, opened at first use, and what its silence means."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from docker import APIClient
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from workers.sandbox.base import EngineUnavailableError

ASKED_IN = "1.41"
"""Any version will do to ask an engine which one it speaks."""

DEFAULT_SOCKET = "/var/run/docker.sock"
LISTENER_TIMEOUT_S = 5.0

CONNECTIONS = 1024
"""Kept open at most: each sandbox, running or waiting, needs one that tells its end."""


class Engine:
    """Where `DOCKER_HOST` points. No call takes longer than `timeout_s` seconds, unless it says so itself."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: APIClient | None = None

    def client(self) -> APIClient:
        """Raises EngineUnavailableError."""
        _require_listener()
        with self._lock:
            if self._client is None:
                with engine_errors():
                    self._client = self._open(self._version())
            return self._client

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _version(self) -> str:
        # The client's own version="auto" leaves a socket open when nobody answers.
        asking = self._open(ASKED_IN)
        try:
            version: str = asking.version(api_version=False)["ApiVersion"]
        finally:
            asking.close()
        return version

    def _open(self, version: str) -> APIClient:
        return APIClient(version=version, timeout=self._timeout_s, max_pool_size=CONNECTIONS, **kwargs_from_env())


def _require_listener() -> None:
    """Tells an engine that is not running in clear words, and before the SDK leaves a socket open over it."""
    host = str(kwargs_from_env().get("base_url", f"unix://{DEFAULT_SOCKET}"))
    if not host.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(LISTENER_TIMEOUT_S)
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            raise EngineUnavailableError(f"the Docker Engine does not answer on {host}: {error}") from error


@contextmanager
def engine_errors() -> Iterator[None]:
    """An engine that does not answer raises EngineUnavailableError. What one answers (APIError) passes."""
    try:
        yield
    except APIError:
        raise
    except (DockerException, OSError) as error:  # requests' errors are OSErrors
        raise EngineUnavailableError(f"the Docker Engine does not answer: {_reason(error)}") from error


def answer(error: APIError) -> str:
    """What the engine said, in one line."""
    return " ".join(str(error.explanation or error).split())[:1000]


def _reason(error: BaseException) -> str:
    """The innermost cause: the outer ones repeat it with the addresses of objects."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
