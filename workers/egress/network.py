"""From an allowed name to a connection: resolved once, every address checked, and one of these connected to.

There is no second look at DNS between check and connection, so a name that turns private in between (rebinding)
gains nothing.
"""

from __future__ import annotations

import time
from functools import lru_cache
from ipaddress import ip_address

from gevent import Timeout, get_hub, monkey, socket
from gevent.hub import Hub
from gevent.threadpool import ThreadPool

from infra.hosts import address_literal, in_authority, is_public
from workers.egress.policy import Target
from workers.egress.refusal import Refused

MAX_ADDRESSES = 8
"""Of one name; further ones are not tried."""
LOOKUPS = 8
"""At a time, of all sandboxes of this worker."""

_getaddrinfo = monkey.get_original("socket", "getaddrinfo")


class Network:
    """The worker's own resolver and network. Tests bring an internet of their own by another implementation."""

    def resolve(self, host: str, port: int) -> list[str]:
        """Addresses of a name, in the order of preference. Raises OSError."""
        found = _lookups(get_hub()).apply(_getaddrinfo, (host, port), {"type": socket.SOCK_STREAM})
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        """Raises OSError."""
        return socket.create_connection((address, port), timeout)


def checked_addresses(network: Network, target: Target, timeout: float) -> list[str]:
    """All addresses of a target, each of them allowed. Raises Refused."""
    literal = address_literal(target.host)
    found = [target.host] if literal is not None else _resolve(network, target, timeout)
    if not target.listed and not all(_is_public(address) for address in found):
        raise Refused.by_policy(
            "address_private",
            target.host,
            target.port,
            "it has an address that is not public",
            hint="Only the operator can allow one, as a literal host:port in FARHAND_EGRESS_ALLOW.",
        )
    return found[:MAX_ADDRESSES]


def connect_to(network: Network, target: Target, addresses: list[str], timeout: float) -> tuple[socket.socket, str]:
    """A connection to the first address that answers, within `timeout` for all of them. Raises Refused."""
    deadline = time.monotonic() + timeout
    problem: OSError = TimeoutError("timed out")
    for number, address in enumerate(addresses):
        # Each gets its share of the time that is left, so that one black hole does not use up the others' turn.
        left = (deadline - time.monotonic()) / (len(addresses) - number)
        try:
            connection = network.connect(address, target.port, max(left, 0.1))
        except OSError as error:
            problem = error
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address
    where = f"{in_authority(target.host)}:{target.port}"
    if isinstance(problem, TimeoutError):
        raise Refused(504, "upstream_timeout", f"{where} does not answer", "Try again later.")
    raise Refused(502, "upstream_unreachable", f"{where} cannot be connected to", "Try again later.")


@lru_cache(maxsize=1)
def _lookups(hub: Hub) -> ThreadPool:
    """Threads for the names of sandboxes alone: a flood of names that nobody answers for must not hold up our own."""
    return ThreadPool(LOOKUPS, hub)


def _resolve(network: Network, target: Target, timeout: float) -> list[str]:
    try:
        with Timeout(timeout, TimeoutError("no answer")):
            found = network.resolve(target.host, target.port)
    except TimeoutError:
        raise Refused(504, "dns_timeout", f"{target.host} cannot be resolved in time", "Try again later.") from None
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise Refused(502, "dns_failed", f"{target.host} does not resolve", "Check the name.")
    return found


def _is_public(address: str) -> bool:
    try:
        return is_public(ip_address(address))
    except ValueError:  # a resolver's answer that is no address
        return False
