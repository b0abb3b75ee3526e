"""The ClientHello parser, fed with what a real TLS library sends, whole, in pieces and damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.egress.hellos import client_hello, fragments, with_extension
from workers.egress.hello import MAX_HELLO_BYTES, Hello, NotTlsError, read_hello

HELLO = client_hello("secure.example")


def receiver(data: bytes, pieces: list[int] | None = None) -> Callable[[int], bytes]:
    """A socket's `recv` that gives pieces of these sizes at most, in turn."""
    at, sizes = 0, list(pieces or [])

    def receive(size: int) -> bytes:
        nonlocal at
        wanted = min(size, sizes.pop(0)) if sizes else size
        at, start = at + wanted, at
        return data[start:at]

    return receive


def read(data: bytes) -> Hello:
    return read_hello(receiver(data))


@pytest.mark.parametrize("oldest", [False, True])
def test_a_real_hello_names_its_host(oldest: bool) -> None:
    hello = client_hello("Secure.Example", oldest=oldest)
    assert read(hello + b"more") == Hello(hello, "secure.example", hides_name=False)


def test_a_hello_without_a_name() -> None:
    assert read(client_hello(None)).server_name is None
    assert read(client_hello("127.0.0.1")).server_name is None


@given(st.lists(st.integers(1, 400)), st.integers(1, 40))
def test_pieces_and_records_make_no_difference(pieces: list[int], records: int) -> None:
    hello = fragments(HELLO, records)
    assert read_hello(receiver(hello, pieces)) == Hello(hello, "secure.example", hides_name=False)


@given(st.integers(0, len(HELLO) - 1))
def test_a_hello_that_is_cut_is_none(length: int) -> None:
    with pytest.raises(NotTlsError):
        read(HELLO[:length])


@given(st.binary(max_size=2000))
def test_anything_else_is_none(data: bytes) -> None:
    with pytest.raises(NotTlsError):
        read(data)


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_damaged_hello_is_read_or_refused_and_nothing_else(at: int, value: int) -> None:
    damaged = HELLO[:at] + bytes((value,)) + HELLO[at + 1 :]
    with suppress(NotTlsError):
        assert read(damaged).raw == damaged


@given(st.integers(1, 60), st.binary(max_size=40))
def test_a_damaged_name_never_passes_for_another(at: int, name: bytes) -> None:
    start = HELLO.index(b"secure.example")
    damaged = HELLO[:start] + name[:14].ljust(14, b"\x00") + HELLO[start + 14 :]
    try:
        seen = read(damaged).server_name
    except NotTlsError:
        return
    assert seen == name[:14].ljust(14, b"\x00").decode("ascii").lower()


def test_a_hidden_name_shows() -> None:
    hidden = with_extension(HELLO, 0xFE0D, b"\x00" * 20)
    assert read(hidden).hides_name
    assert read(hidden).server_name == "secure.example"


@pytest.mark.parametrize(
    "hello",
    [
        with_extension(HELLO, 0, b"\x00\x0f\x00\x00\x0cevil.example"),  # a second server_name
        with_extension(client_hello(None), 0, b""),
        with_extension(client_hello(None), 0, b"\x00\x00"),
        with_extension(client_hello(None), 0, b"\x00\x03\x00\x00\x00"),
        with_extension(client_hello(None), 0, b"\x00\x04\x01\x00\x01a"),  # not a host name
        with_extension(client_hello(None), 0, b"\x00\x08\x00\x00\x01a\x00\x00\x01b"),  # two names
        with_extension(client_hello(None), 0, b"\x00\x04\x00\x00\x01a\x00"),
        with_extension(client_hello(None), 0, b"\x00\x05\x00\x00\x02\xc3\xa4"),
        b"\x16\x03\x01\x00\x00",
        b"\x16\x02\x00" + HELLO[3:],
        b"\x17" + HELLO[1:],
        b"\x16\x03\x01\x00\x04\x01\x00\xff\xff",
        HELLO[:3] + (len(HELLO) - 4).to_bytes(2, "big") + HELLO[5:] + b"x",  # more in the record than the hello
    ],
)
def test_what_is_ambiguous_is_refused(hello: bytes) -> None:
    with pytest.raises(NotTlsError):
        read(hello)


def test_a_hello_is_bounded() -> None:
    big = with_extension(HELLO, 0x7777, b"\x00" * 15_000)
    assert read(fragments(big, 2)).server_name == "secure.example"
    for records in (1, 3, 400):
        with pytest.raises(NotTlsError):
            read(fragments(with_extension(HELLO, 0x7777, b"\x00" * (MAX_HELLO_BYTES - 100)), records))
