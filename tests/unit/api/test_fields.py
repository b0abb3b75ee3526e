"""Types of fields against git itself, and at their edges."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from api.fields import BranchName, Email, Name, Text

_branch = TypeAdapter(BranchName)
_ALPHABET = "ab./-@{}~^:?*[\\ \t\x7fü_lock"


def accepted(adapter: TypeAdapter[str], value: str) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def git_accepts(name: str) -> bool:
    """As a branch of the remote. (`--branch` would resolve `@{-1}` and take options.)"""
    command = ["git", "check-ref-format", f"refs/heads/{name}"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@given(
    st.text(_ALPHABET, min_size=1, max_size=12) | st.from_regex(r"[a-z]{1,3}(\.lock|/|\.|@\{)?[a-z]?", fullmatch=True)
)
def test_no_branch_is_taken_that_git_refuses(name: str) -> None:
    if accepted(_branch, name):
        assert git_accepts(name), name
        assert not name.startswith("-")
    elif git_accepts(name):
        # Only these are refused on top: what git itself refuses to create as a branch or could take for an option.
        assert name.startswith(("-", "refs/")) or name == "@", name


@pytest.mark.parametrize("name", ["@", "HEAD/x", "-x", "refs/heads/main", "main"])
def test_names_at_the_edge(name: str) -> None:
    assert accepted(_branch, name) == (name in {"HEAD/x", "main"})


@pytest.mark.parametrize("text", ["a\nb\tc", "ü\U0001f600", " a "])
def test_text_is_kept_as_it_is(text: str) -> None:
    assert TypeAdapter(Text).validate_python(text) == text


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\u2028b", "a\0", "x" * 101])
def test_names_of_one_line(name: str) -> None:
    assert not accepted(TypeAdapter(Name), name)


@pytest.mark.parametrize(
    ("address", "ok"),
    [("a@example.com", True), ("me@box.local", True), ("a@b", True), ("a", False), ("a@", False), ("a b@c.d", False)],
)
def test_addresses(address: str, ok: bool) -> None:
    assert accepted(TypeAdapter(Email), address) == ok
