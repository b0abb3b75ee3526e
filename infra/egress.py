"""What a project lets its sandboxes reach: the words in which that is said, checked and explained.

`"none"` (the default), `"registries"`, `"open"`, or a list of hosts: `host`, `host:port` or `*.suffix[:port]`. Without
a port both 443 and 80 are meant. The operator's FARHAND_EGRESS_ALLOW holds `host:port` literals, which every project
but one with `none` may reach too; they alone may be private. The decision about one connection is made by the worker,
in `workers.egress`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from infra.hosts import address_literal, in_authority, looks_private, normal_host

Word = Literal["none", "registries", "open"]
Egress = Word | list[str]

DEFAULT_PORTS = (443, 80)
MAX_HOSTS = 100
MAX_HOST_CHARS = 300
_PORT = re.compile(r"[0-9]{1,5}")
_NOT_IN_HOSTS = re.compile(r"[\s/?#@%\\,]")


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of a list. `suffix`: every name below `host`, not `host` itself. `port` None: `DEFAULT_PORTS`."""

    host: str
    port: int | None = None
    suffix: bool = False

    def matches(self, host: str, port: int) -> bool:
        """`host` is in normal form."""
        return self.matches_host(host) and (port in DEFAULT_PORTS if self.port is None else port == self.port)

    def matches_host(self, host: str) -> bool:
        return host.endswith(f".{self.host}") if self.suffix else host == self.host

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{'*.' if self.suffix else ''}{in_authority(self.host)}{port}"


def parse_authority(text: str) -> tuple[str, int | None]:
    """Host in normal form and port of `host`, `host:port`, `[v6]` or `[v6]:port`. Raises ValueError."""
    if not text or len(text) > MAX_HOST_CHARS or _NOT_IN_HOSTS.search(text) or not text.isprintable():
        raise ValueError("not a host")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("not a host")
        return normal_host(host, bracketed=True), _port(rest[1:]) if rest else None
    host, colon, port = text.partition(":")
    return normal_host(host), _port(port) if colon else None


def parse_rule(text: str) -> HostRule:
    """Raises ValueError with what is wrong."""
    suffix = text.startswith("*.")
    try:
        host, port = parse_authority(text[2:] if suffix else text)
    except ValueError:
        raise ValueError(f"{text!r} is not a host, host:port or *.suffix") from None
    if suffix and (address_literal(host) is not None or "." not in host):
        raise ValueError(f"{text!r}: a suffix needs two names or more, such as *.example.com")
    return HostRule(host, port, suffix)


def parse_literals(entries: tuple[str, ...]) -> frozenset[tuple[str, int]]:
    """FARHAND_EGRESS_ALLOW as (host, port) pairs. Raises ValueError with the entry that is none."""
    found = set()
    for entry in entries:
        try:
            host, port = parse_authority(entry)
        except ValueError:
            port = None
        if port is None:
            raise ValueError(f"{entry!r} is not a literal host:port")
        found.add((host, port))
    return frozenset(found)


def check_egress(value: Egress, literals: tuple[str, ...]) -> Egress:
    """What a project asks for, in normal form; `literals` are the operator's. Raises ValueError with what is wrong."""
    if isinstance(value, str):
        return value
    if len(value) > MAX_HOSTS:
        raise ValueError(f"at most {MAX_HOSTS} hosts")
    rules = [parse_rule(text) for text in value]
    allowed = parse_literals(literals)
    for rule in rules:
        if not rule.suffix and looks_private(rule.host) and (rule.host, rule.port) not in allowed:
            raise ValueError(f"{rule} is private: only the operator can allow it, as host:port in FARHAND_EGRESS_ALLOW")
        if rule.suffix and looks_private(f"x.{rule.host}"):
            raise ValueError(f"{rule} is private: the operator can allow single hosts of it, in FARHAND_EGRESS_ALLOW")
    return list(dict.fromkeys(map(str, rules))) or "none"


def in_words(egress: Egress) -> str:
    """For the agent's instructions: what it can reach from inside."""
    if egress == "none":
        return "There is no network: only 127.0.0.1 can be reached."
    reach = {
        "registries": "the usual package registries (PyPI, npm, crates.io, Go, RubyGems, Maven …) and nothing else",
        "open": "public hosts",
    }
    allowed = reach[egress] if isinstance(egress, str) else f"these hosts and nothing else: {', '.join(egress)}"
    return (
        "There is no network but 127.0.0.1 and an HTTP proxy, which HTTPS_PROXY and HTTP_PROXY name. Through it you "
        f"reach {allowed}. There is no DNS. If the proxy answers 403, the host is not allowed: don't look for a way "
        "around, and tell the owner which host you needed."
    )


def _port(text: str) -> int:
    if not (_PORT.fullmatch(text) and 0 < int(text) <= 65535):
        raise ValueError("not a port")
    return int(text)
