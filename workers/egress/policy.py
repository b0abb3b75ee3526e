"""Whether a host and port may be reached: the project's word and the operator's exceptions. Nothing is resolved here.

What is not allowed by name never reaches a resolver, so that names cannot carry data out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from infra.egress import DEFAULT_PORTS, Egress, HostRule, parse_literals, parse_rule
from infra.hosts import address_literal, in_authority, looks_private
from workers.egress.refusal import Refused

_REGISTRIES = Path(__file__).with_name("registries.json")
_FIRST_OPEN_PORT = 1024
"""Under `open`, ports below it belong to other protocols (mail, SSH …), all but HTTP's own two."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection may go. `listed`: the operator named this very host and port, so it may be private.

    `tls_name`: what the SNI of a tunnel must say; None where the host is an address, which has none.
    """

    host: str
    port: int
    listed: bool

    @property
    def tls_name(self) -> str | None:
        return self.host if address_literal(self.host) is None else None

    @property
    def authority(self) -> str:
        return f"{in_authority(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Policy:
    """One project's egress. `rules` are empty for `none` and `open`."""

    egress: Egress
    rules: tuple[HostRule, ...]
    literals: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, egress: Egress, operator: tuple[str, ...]) -> Policy:
        """`egress` as `check_egress` returned it, `operator` is FARHAND_EGRESS_ALLOW."""
        if egress == "registries":
            rules = registries()
        else:
            rules = () if isinstance(egress, str) else tuple(map(parse_rule, egress))
        return cls(egress, rules, parse_literals(operator))

    @property
    def allows_something(self) -> bool:
        return self.egress != "none"

    def judge(self, host: str, port: int) -> Target:
        """`host` is in normal form. Raises Refused."""
        if not self.allows_something:
            raise Refused.by_policy("egress_none", host, port, "this project has no egress", hint=_ask_for(host, port))
        if (host, port) in self.literals:
            return Target(host, port, listed=True)
        if looks_private(host):
            raise Refused.by_policy(
                "address_private",
                host,
                port,
                "private, local and metadata addresses are not reachable",
                hint="Only the operator can allow one, as a literal host:port in FARHAND_EGRESS_ALLOW.",
            )
        if self.egress == "open":
            _check_open(host, port)
        else:
            self._check_listed(host, port)
        return Target(host, port, listed=False)

    def _check_listed(self, host: str, port: int) -> None:
        if any(rule.matches(host, port) for rule in self.rules):
            return
        if any(rule.matches_host(host) for rule in self.rules):
            code, why = "port_not_allowed", "this project's egress allows the host, but not this port"
        else:
            code, why = "host_not_allowed", "this project's egress does not allow it"
        raise Refused.by_policy(code, host, port, why, hint=_ask_for(host, port))


@lru_cache(maxsize=1)
def registries() -> tuple[HostRule, ...]:
    """The usual package hosts, from `registries.json`."""
    named: dict[str, list[str]] = json.loads(_REGISTRIES.read_text())
    return tuple(parse_rule(text) for hosts in named.values() for text in hosts)


def _check_open(host: str, port: int) -> None:
    if address_literal(host) is not None:
        raise Refused.by_policy(
            "address_not_listed",
            host,
            port,
            "an address without a name must be listed literally",
            hint=_ask_for(host, port),
        )
    if port not in DEFAULT_PORTS and port < _FIRST_OPEN_PORT:
        raise Refused.by_policy(
            "port_not_allowed",
            host,
            port,
            f"open egress is for ports 443, 80 and from {_FIRST_OPEN_PORT} up",
            hint=_ask_for(host, port),
        )


def _ask_for(host: str, port: int) -> str:
    where = in_authority(host) if port in DEFAULT_PORTS else f"{in_authority(host)}:{port}"
    return f"If it is needed, ask the owner to add {where} to the project's egress, for the next attempt."
