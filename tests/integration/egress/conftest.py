"""The proxy of one attempt, on an internet of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.egress.authority import Authority
from tests.integration.egress.internet import Internet, Proxy
from tests.integration.egress.upstream import Upstream
from tests.world import World
from workers.egress.bounds import Bounds


@pytest.fixture
def internet() -> Internet:
    return Internet()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def site(internet: Internet) -> Iterator[Upstream]:
    """`http://site.example`."""
    with Upstream() as server:
        internet.put("site.example", 80, server.port)
        yield server


@pytest.fixture
def secure(internet: Internet, authority: Authority) -> Iterator[Upstream]:
    """`https://secure.example`, which would also answer for other names."""
    with Upstream(authority.server_context("secure.example", "*.example")) as server:
        internet.put("secure.example", 443, server.port, "93.184.216.35")
        yield server


@pytest.fixture
def make_proxy(world: World, run_dir: Path, internet: Internet) -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(bounds: Bounds | None = None) -> Proxy:
        made.append(Proxy(world, run_dir, internet, bounds))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def proxy(make_proxy: Callable[..., Proxy]) -> Proxy:
    """Open to `site.example` and `secure.example`."""
    proxy = make_proxy()
    proxy.allow(["site.example", "secure.example"])
    return proxy
