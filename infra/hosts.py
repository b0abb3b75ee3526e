"""Names and addresses of hosts: one normal form however they are written, and whether they are public.

Repositories (`infra.repo_url`) and egress (`infra.egress`) judge hosts by the same rules.
"""

from __future__ import annotations

import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network, ip_address

import idna

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "localdomain", "lan", "home.arpa", "intranet", "corp", "home")
_METADATA = {IPv4Address("168.63.129.16")}  # a cloud's metadata service that stands in public address space
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")  # which part of it wraps an IPv4 address is each network's own choice

Address = IPv4Address | IPv6Address


def normal_host(host: str, *, bracketed: bool = False) -> str:
    """A host name in ASCII, or an address in its usual notation, however it was written.

    `bracketed`: it stood in brackets, as IPv6 addresses do. Raises ValueError for what is neither.
    """
    if bracketed:
        if "%" in host:
            raise AddressValueError("scoped address")
        address = IPv6Address(host)
        return str(address.ipv4_mapped or address)
    name = host if host.isascii() else idna.encode(host, uts46=True, std3_rules=True).decode()
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        # Everything that C's resolvers take for an IPv4 address: 127.1, 0x7f.0.0.1, 0177.0.0.1, 2130706433.
        try:
            return str(IPv4Address(socket.inet_aton(name)))
        except OSError:
            raise AddressValueError("not an IPv4 address") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    return name


def in_authority(host: str) -> str:
    """The host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def address_literal(host: str) -> Address | None:
    """The address that a normal host is, None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def looks_private(host: str) -> bool:
    """Whether a normal host is a private address, or a name that only a local network knows."""
    literal = address_literal(host)
    if literal is not None:
        return not is_public(literal)
    # A name without a dot is one of the local network: `postgres`, `redis`, a container's name.
    return "." not in host or any(host == suffix or host.endswith(f".{suffix}") for suffix in _PRIVATE_SUFFIXES)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, also looking into IPv4 addresses wrapped in IPv6 ones."""
    if isinstance(address, IPv6Address):
        wrapped = _wrapped_ipv4(address)
        if wrapped is not None:
            return is_public(wrapped)
        if address.is_site_local or address.scope_id is not None or address in _NAT64_LOCAL:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and address not in _METADATA


def _wrapped_ipv4(address: IPv6Address) -> IPv4Address | None:
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
