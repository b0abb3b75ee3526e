"""Cursors: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pages import decode_id, decode_pair, encode, page
from infra.errors import InvalidInputError


@given(st.uuids())
def test_an_id_comes_back(value: UUID) -> None:
    assert decode_id(encode(value)) == value


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_a_pair_comes_back(left: int, right: int) -> None:
    assert decode_pair(encode(left, right)) == (left, right)


@given(st.text(max_size=100))
def test_whatever_else_is_an_error_of_the_client(cursor: str) -> None:
    for decode in (decode_id, decode_pair):
        with contextlib.suppress(InvalidInputError):
            decode(cursor)


def test_no_cursor_is_the_beginning() -> None:
    assert decode_id(None) is None
    assert decode_pair(None) is None


@pytest.mark.parametrize(("found", "shown", "following"), [(0, 0, None), (2, 2, None), (3, 2, "1")])
def test_a_page_knows_whether_there_is_more(found: int, shown: int, following: str | None) -> None:
    items: list[dict[str, Any]] = [{"id": n} for n in range(found)]
    assert page(items, 2, lambda item: str(item["id"])) == {"items": items[:shown], "next": following}
