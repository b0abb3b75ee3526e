"""Which repository URLs are taken: the judgement of the text, and of what DNS says later."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import RepoRefusedError
from infra.repo_url import Endpoint, check_repo_url, endpoint, resolve_pinned


def refusal(url: str, allowed: tuple[str, ...] = ()) -> RepoRefusedError:
    with pytest.raises(RepoRefusedError) as caught:
        check_repo_url(url, allowed)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://github.com/owner/name", "https://github.com/owner/name"),
        ("HTTPS://GitHub.COM/Owner/Name.git/", "https://github.com/Owner/Name.git"),
        ("https://github.com:443/a", "https://github.com/a"),
        ("https://github.com./a", "https://github.com/a"),
        ("https://git.example.org:8443/a/b/c", "https://git.example.org:8443/a/b/c"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://8.8.8.8/a", "https://8.8.8.8/a"),
        ("https://134744072/a", "https://8.8.8.8/a"),
        ("https://[2001:4860:4860::8888]/a", "https://[2001:4860:4860::8888]/a"),
    ],
)
def test_a_public_https_url_is_taken_in_normal_form(url: str, normal: str) -> None:
    assert check_repo_url(url, ()) == normal
    assert check_repo_url(normal, ()) == normal


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local", "vault.internal", "vault.internal.",
        "postgres", "127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1",
        "017700000001", "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "0xa9fea9fe", "168.63.129.16", "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[fe80::1]", "[fc00::1]",
        "[fd00:ec2::254]", "[ff02::1]", "[fec0::1]", "127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    ],
)  # fmt: skip
def test_a_private_host_is_refused_however_it_is_written(host: str) -> None:
    assert refusal(f"https://{host}/a").code == "repo_host_private"
    assert refusal(f"https://{host}:8443/a").code == "repo_host_private"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "repo_url_invalid"),
        ("github.com/owner/name", "repo_url_invalid"),
        ("//github.com/owner/name", "repo_url_invalid"),
        ("/etc/passwd", "repo_url_invalid"),
        ("../name", "repo_url_invalid"),
        ("--upload-pack=touch", "repo_url_invalid"),
        ("-u", "repo_url_invalid"),
        ("https://github.com", "repo_url_invalid"),
        ("https://github.com/", "repo_url_invalid"),
        ("https:///owner/name", "repo_url_invalid"),
        ("https://github.com/a?b=c", "repo_url_invalid"),
        ("https://github.com/a#b", "repo_url_invalid"),
        ("https://github.com/a b", "repo_url_invalid"),
        ("https://github.com/a\nb", "repo_url_invalid"),
        ("https://github.com/a\x00b", "repo_url_invalid"),
        ("https://github.com/a\u200bb", "repo_url_invalid"),
        ("https://git\thub.com/a", "repo_url_invalid"),
        (" https://github.com/a", "repo_url_invalid"),
        ("https://github.com\\@127.0.0.1/a", "repo_url_invalid"),
        ("https://github.com/a/../b", "repo_url_invalid"),
        ("https://github.com/%2e%2e/b", "repo_url_invalid"),
        ("https://github.com/a%0Ab", "repo_url_invalid"),
        ("https://github.com/a%0", "repo_url_invalid"),
        ("https://github.com:0/a", "repo_url_invalid"),
        ("https://github.com:65536/a", "repo_url_invalid"),
        ("https://github.com:git/a", "repo_url_invalid"),
        ("https://-github.com/a", "repo_url_invalid"),
        ("https://git..hub.com/a", "repo_url_invalid"),
        ("https://github.com../a", "repo_url_invalid"),
        ("https://1.2.3.4.5/a", "repo_url_invalid"),
        ("https://256.1.1.1/a", "repo_url_invalid"),
        ("https://[::1/a", "repo_url_invalid"),
        ("https://[v1.x]/a", "repo_url_invalid"),
        ("https://[fe80::1%25eth0]/a", "repo_url_invalid"),
        ("https://example.com\uff0fa/b", "repo_url_invalid"),
        ("https://github.com/" + "a" * 2000, "repo_url_invalid"),
        ("https://github.com/" + "ü" * 900, "repo_url_invalid"),
        ("https://user:secret@github.com/a", "repo_url_has_credentials"),
        ("https://token@github.com/a", "repo_url_has_credentials"),
        ("https://@github.com/a", "repo_url_has_credentials"),
        ("ssh://git@github.com/a", "repo_url_has_credentials"),
        ("http://github.com/a", "repo_scheme_refused"),
        ("ssh://github.com/a", "repo_scheme_refused"),
        ("git://github.com/a", "repo_scheme_refused"),
        ("git@github.com:owner/name.git", "repo_scheme_refused"),
        ("ext::sh", "repo_scheme_refused"),
        ("fd::17", "repo_scheme_refused"),
        ("file:///srv/a", "repo_scheme_refused"),
        ("ftp://github.com/a", "repo_scheme_refused"),
    ],
)
def test_what_is_not_a_public_https_url_is_refused_with_its_code(url: str, code: str) -> None:
    assert refusal(url).code == code


def test_a_refusal_never_repeats_a_password() -> None:
    error = refusal("https://user:hunter2@github.com/a")
    assert "hunter2" not in error.message + error.hint


def test_an_ssh_address_is_answered_with_the_https_one() -> None:
    assert "https://github.com/owner/name.git" in refusal("git@github.com:owner/name.git").hint


def test_a_listed_host_may_be_private_and_plain() -> None:
    assert check_repo_url("http://127.0.0.1:8080/a", ("127.0.0.1:8080",)) == "http://127.0.0.1:8080/a"
    assert check_repo_url("http://127.1/a", ("127.0.0.1",)) == "http://127.0.0.1/a"
    assert check_repo_url("http://[::1]:9/a", ("[::1]:9",)) == "http://[::1]:9/a"
    assert check_repo_url("https://gitea/a", ("Gitea:443",)) == "https://gitea/a"
    assert refusal("http://127.0.0.1:8081/a", ("127.0.0.1:8080",)).code == "repo_host_private"
    assert refusal("http://localhost:8080/a", ("127.0.0.1:8080",)).code == "repo_host_private"
    assert refusal("http://[::ffff:127.0.0.1]:8081/a", ("127.0.0.1:8080",)).code == "repo_host_private"


def test_a_file_url_is_taken_only_where_file_is_listed() -> None:
    assert check_repo_url("file:///srv/repo.git/", ("file",)) == "file:///srv/repo.git"
    for url in ("file://host/a", "file:a", "file:///a/../b", "file:///"):
        assert refusal(url, ("file",)).code == "repo_url_invalid"
    assert refusal("https://127.0.0.1/a", ("file",)).code == "repo_host_private"


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://github.com/", "http://127.0.0.1/", "file:///"]))
def test_whatever_is_given_is_refused_or_has_a_stable_normal_form(text: str, start: str) -> None:
    allowed = ("127.0.0.1", "file")
    try:
        normal = check_repo_url(start + text, allowed)
    except RepoRefusedError:
        return
    assert normal.isascii()
    assert check_repo_url(normal, allowed) == normal


def test_the_endpoint_of_a_url() -> None:
    assert endpoint("https://github.com/a") == Endpoint("github.com", 443)
    assert endpoint("http://[::1]:8080/a") == Endpoint("::1", 8080)
    assert endpoint("file:///a") is None


def _dns(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def answer(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_a_public_name_that_leads_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _dns(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(RepoRefusedError) as caught:
        resolve_pinned(Endpoint("rebind.example", 443), ())
    assert caught.value.code == "repo_host_private"
    assert resolve_pinned(Endpoint("rebind.example", 443), ("rebind.example:443",)) == ["8.8.8.8", "10.0.0.1"]


def test_the_addresses_of_a_public_name_are_all_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    _dns(monkeypatch, "8.8.8.8", "1.1.1.1", "8.8.8.8")
    assert resolve_pinned(Endpoint("example.org", 443), ()) == ["8.8.8.8", "1.1.1.1"]
