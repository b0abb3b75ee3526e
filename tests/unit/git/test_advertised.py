"""What a repository offers, and what a mirror remembers of it."""

import pytest

from workers.git.advertised import Advertised, dump, load, parse
from workers.git.errors import GitError

A, B = "a" * 40, "b" * 40


def test_branches_and_the_default_one_are_read() -> None:
    said = f"ref: refs/heads/trunk\tHEAD\n{A}\tHEAD\n{B}\trefs/heads/topic/x\n{A}\trefs/heads/trunk\n"
    found = parse(said.encode(), "url")
    assert (dict(found.heads), found.default) == ({"topic/x": B, "trunk": A}, "trunk")
    assert parse(said.encode(), "url").digest == found.digest
    assert parse(said.replace("b", "c").encode(), "url").digest != found.digest


def test_what_only_looks_like_a_branch_is_not_one() -> None:
    said = f"{A}\tHEAD\n{B}\trefs/heads/HEAD\n{B}\trefs/evil/refs/heads/x\n{A}\trefs/heads/main\n"
    assert dict(parse(said.encode(), "url").heads) == {"HEAD": B, "main": A}


@pytest.mark.parametrize(
    ("heads", "default"), [(("x", "main", "master"), "main"), (("x", "master"), "master"), (("b", "c"), "b")]
)
def test_a_head_without_a_name_is_the_branch_that_it_most_likely_means(heads: tuple[str, ...], default: str) -> None:
    said = f"{A}\tHEAD\n" + "".join(f"{A}\trefs/heads/{head}\n" for head in heads) + f"{B}\trefs/heads/other\n"
    assert parse(said.encode(), "url").default == default


def test_a_head_that_names_nothing_is_no_default() -> None:
    assert parse(f"{A}\trefs/heads/x\n".encode(), "url").default is None
    assert parse(f"ref: refs/heads/gone\tHEAD\n{A}\trefs/heads/x\n".encode(), "url").default is None


@pytest.mark.parametrize("said", ["", f"{A}\tHEAD\n", f"{A}\trefs/tags/x\n"])
def test_a_repository_without_a_branch_is_empty(said: str) -> None:
    with pytest.raises(GitError) as caught:
        parse(said.encode(), "url")
    assert caught.value.code == "repo_empty"


def test_what_is_remembered_holds_only_for_the_same_url_and_unharmed_packs() -> None:
    found = Advertised({"main": A}, "main", "digest")
    remembered = dump(found, "url", {"p.pack": 3}).encode()
    assert load(remembered, "url", {"p.pack": 3, "later.pack": 5}) == found
    assert load(remembered, "other", {"p.pack": 3}) is None
    for packs in ({}, {"p.pack": 2}):
        with pytest.raises(ValueError, match="packs"):
            load(remembered, "url", packs)


@pytest.mark.parametrize("remembered", [b"", b"{", b"[]", b"null", b'{"url": "url"}', b'{"url": "url", "packs": 3}'])
def test_what_cannot_be_read_is_not_trusted(remembered: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason will do
        load(remembered, "url", {})
