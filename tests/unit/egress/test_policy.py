"""Which hosts a project's egress allows, and what it may say."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.egress import Egress, check_egress, in_words, parse_authority, parse_literals
from infra.hosts import is_public, normal_host
from tests.services import make_settings
from workers.egress.policy import Policy, registries
from workers.egress.refusal import Refused


def verdict(egress: Egress, host: str, port: int = 443, *operator: str) -> str:
    try:
        target = Policy.of(check_egress(egress, operator), operator).judge(host, port)
    except Refused as refused:
        return refused.code if refused.status == 403 and refused.hint else "badly refused"
    return "listed" if target.listed else "allowed"


@pytest.mark.parametrize(
    ("egress", "host", "port", "expected"),
    [
        ("none", "example.com", 443, "egress_none"),
        ("registries", "pypi.org", 443, "allowed"),
        ("registries", "pypi.org", 80, "allowed"),
        ("registries", "pypi.org", 22, "port_not_allowed"),
        ("registries", "example.com", 443, "host_not_allowed"),
        ("registries", "pypi.org.example.com", 443, "host_not_allowed"),
        ("registries", "xpypi.org", 443, "host_not_allowed"),
        (["example.com"], "example.com", 80, "allowed"),
        (["example.com"], "www.example.com", 443, "host_not_allowed"),
        (["example.com"], "example.com", 8443, "port_not_allowed"),
        (["example.com:8443"], "example.com", 8443, "allowed"),
        (["example.com:8443"], "example.com", 443, "port_not_allowed"),
        (["*.example.com"], "a.b.example.com", 443, "allowed"),
        (["*.example.com"], "example.com", 443, "host_not_allowed"),
        (["*.example.com"], "notexample.com", 443, "host_not_allowed"),
        (["*.example.com:8443"], "a.example.com", 8443, "allowed"),
        (["*.example.com:8443"], "a.example.com", 443, "port_not_allowed"),
        (["EXAMPLE.com."], "example.com", 443, "allowed"),
        (["bücher.example"], "xn--bcher-kva.example", 443, "allowed"),
        (["8.8.8.8"], "8.8.8.8", 443, "allowed"),
        (["[2001:4860:4860::8888]:8443"], "2001:4860:4860::8888", 8443, "allowed"),
        ("open", "example.com", 443, "allowed"),
        ("open", "example.com", 8080, "allowed"),
        ("open", "example.com", 25, "port_not_allowed"),
        ("open", "example.com", 22, "port_not_allowed"),
        ("open", "8.8.8.8", 443, "address_not_listed"),
        ("open", "10.0.0.1", 443, "address_private"),
        ("open", "postgres", 443, "address_private"),
        ("open", "vault.internal", 443, "address_private"),
    ],
)
def test_judgements(egress: Egress, host: str, port: int, expected: str) -> None:
    assert verdict(egress, host, port) == expected


@pytest.mark.parametrize("egress", ["registries", "open", ["example.com"], ["mirror.corp:8080"]])
def test_what_the_operator_lists_is_reached_by_every_project_with_egress(egress: Any) -> None:
    operator = ("mirror.corp:8080", "127.0.0.1:3000", "[::1]:3000")
    assert verdict(egress, "mirror.corp", 8080, *operator) == "listed"
    assert verdict(egress, "127.0.0.1", 3000, *operator) == "listed"
    assert verdict(egress, "::1", 3000, *operator) == "listed"
    assert verdict(egress, "mirror.corp", 8081, *operator) == "address_private"
    assert verdict(egress, "127.0.0.1", 3001, *operator) == "address_private"
    assert verdict("none", "mirror.corp", 8080, *operator) == "egress_none"


@pytest.mark.parametrize(
    "entry",
    [
        "", " ", "*", "*.", "*.com", "**.example.com", "a.*.com", "https://example.com", "example.com/path",
        "user@example.com", "example.com:",
        "example.com:0", "example.com:65536", "example.com:http", "example.com:\uff11",
        "exa mple.com", "example..com", "-example.com", "exa\x00mple.com", "example.com\n", "a,b.com", "::1", "[::1",
        "[::1]x", "[fe80::1%eth0]", "*.8.8.8.8", "%65xample.com", "x" * 400 + ".com", "10.0.0.1", "127.0.0.1:80",
        "localhost", "postgres", "db.internal:443", "*.internal", "0x7f.1", "\uff12", "[::ffff:10.0.0.1]", "999.1.1.1",
    ],
)  # fmt: skip
def test_an_entry_that_is_none_or_private_is_refused_with_a_reason(entry: str) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        check_egress(["example.com", entry], ())


def test_entries_are_kept_in_normal_form_once() -> None:
    assert check_egress(["Example.COM.", "example.com", "*.B.example:08443"], ()) == ["example.com", "*.b.example:8443"]
    assert check_egress([], ()) == "none"
    assert check_egress(["db.internal:5432"], ("db.internal:5432",)) == ["db.internal:5432"]
    with pytest.raises(ValueError, match="at most"):
        check_egress([f"h{n}.example" for n in range(101)], ())


def test_the_registries_are_public_names() -> None:
    rules = registries()
    assert len(rules) > 10
    assert all(check_egress([str(rule)], ()) == [str(rule)] for rule in rules)
    assert not any(rule.suffix for rule in rules)


@pytest.mark.parametrize("entry", ["example.com", "*.example.com:443", ":80", "example.com:x", "http://example.com:80"])
def test_the_operator_lists_literals_only(entry: str) -> None:
    with pytest.raises(ValueError, match="literal host:port"):
        parse_literals((entry,))
    with pytest.raises(ValueError, match="literal host:port"):
        make_settings(database_url="", redis_url="", run_dir=Path(), egress_allow=(entry,))


@given(st.text(max_size=60))
def test_any_text_is_an_authority_in_normal_form_or_refused(text: str) -> None:
    try:
        host, port = parse_authority(text)
    except ValueError:
        return
    assert normal_host(host, bracketed=":" in host) == host
    assert port is None or 0 < port < 65536


@given(st.ip_addresses(v=4))
def test_wrapping_an_ipv4_address_makes_it_no_more_public(address: IPv4Address) -> None:
    number = int(address)
    mapped = IPv6Address(0xFFFF << 32 | number)
    sixtofour = IPv6Address(0x2002 << 112 | number << 80)
    nat64 = IPv6Address(int(IPv6Address("64:ff9b::")) | number)
    assert is_public(mapped) == is_public(sixtofour) == is_public(nat64) == is_public(address)
    assert not is_public(IPv6Address(number))  # the old "compatible" form


@given(st.ip_addresses(v=4))
def test_every_spelling_of_an_address_is_the_address(address: IPv4Address) -> None:
    number, parts = int(address), str(address).split(".")
    spellings = [
        str(address), f"{address}.", str(number), hex(number), f"0{number:o}",
        ".".join(hex(int(part)) for part in parts), ".".join(f"0{int(part):o}" for part in parts),
        f"{parts[0]}.{number & 0xFFFFFF}", f"{parts[0]}.{parts[1]}.{number & 0xFFFF}",
    ]  # fmt: skip
    assert {normal_host(spelling) for spelling in spellings} == {str(address)}


PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "::1/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    "64:ff9b:1::/48", "2001:db8::/32",
)  # fmt: skip


@given(st.sampled_from(PRIVATE), st.data())
def test_no_address_of_a_private_network_is_public(network: str, data: st.DataObject) -> None:
    address = data.draw(st.ip_addresses(network=network))
    assert not is_public(address)


def test_public_addresses_are_public() -> None:
    assert all(is_public(ip_address(text)) for text in ("8.8.8.8", "93.184.216.34", "2606:4700::1111"))
    assert ip_address("2606:4700::1111") not in IPv6Network("64:ff9b::/96")


@pytest.mark.parametrize("egress", ["none", "registries", "open", ["example.com"]])
def test_the_agent_is_told_what_it_reaches(egress: Any) -> None:
    words = in_words(egress)
    assert ("HTTPS_PROXY" in words) == (egress != "none")
    if isinstance(egress, list):
        assert "example.com" in words
