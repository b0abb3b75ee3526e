"""Attacks by what comes out of a sandbox: packs made by hand, as a loop that was taken over could send them.

More of them, name by name, in tests/integration/git/test_task_repo.py.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.handmade import Raw, blob, pack, tree
from tests.integration.git.source import Source
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.mirror import Mirror, MirrorStore
from workers.git.repo import MAX_PACK_BYTES, MAX_PACK_OBJECTS, TaskRepo, TreePack

FILE = blob(b"content\n")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with GitServer(tmp_path_factory.mktemp("host")) as server:
        yield server


@pytest.fixture(scope="module")
def store(host: GitServer, tmp_path_factory: pytest.TempPathFactory) -> MirrorStore:
    allowed = (f"127.0.0.1:{host.server_address[1]}",)
    run_dir = tmp_path_factory.mktemp("run")
    settings = Settings.model_validate({"run_dir": run_dir, "allowed_repo_hosts": allowed, "git_timeout": 60})
    return MirrorStore(run_dir, settings)


@pytest.fixture(scope="module")
def mirror(store: MirrorStore, host: GitServer, tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    return mirror_of("ours", store, host, tmp_path_factory.mktemp("ours"))


@pytest.fixture
def repo(tmp_path: Path, mirror: Mirror) -> TaskRepo:
    return TaskRepo.build(tmp_path / "task.git", mirror, [])


def mirror_of(name: str, store: MirrorStore, host: GitServer, path: Path) -> Mirror:
    source = Source(path / "source")
    source.write("private.txt", f"of {name}\n")
    source.commit("First")
    host.create(name, from_dir=source.path)
    return store.refresh(uuid4(), host.url(name), None)


def refused(repo: TaskRepo, *objects: Raw, tip: Raw | None = None) -> GitError:
    return refused_bytes(repo, pack(*objects), (tip or objects[-1]).id)


def refused_bytes(repo: TaskRepo, data: bytes, tip: str) -> GitError:
    with pytest.raises(GitError) as caught:
        repo.receive(TreePack(tip, "0" * 40, data))
    assert caught.value.code in ("pack_refused", "tree_refused")
    assert caught.value.hint
    assert not [*(repo.path / "objects" / "pack").glob("tmp_*")]
    return caught.value


def test_a_pack_that_is_a_zip_bomb(repo: TaskRepo) -> None:
    """A hundred kilobytes that say to be a hundred megabytes are read piece by piece, and stay as they came."""
    size = 100 * 2**20
    squeeze = zlib.compressobj(9)
    piece = bytes(2**20)
    squeezed = b"".join(squeeze.compress(piece) for _ in range(size >> 20)) + squeeze.flush()
    assert len(squeezed) * 900 < size
    body = b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + header(3, size) + squeezed
    bomb = body + hashlib.sha1(body).digest()
    repo.git.run("index-pack", "--strict", "--stdin", git_dir=repo.path, stdin=bomb, max_memory=size)  # it suffices
    refused_bytes(repo, bomb, FILE.id)
    on_disk = sum(path.stat().st_size for path in repo.path.rglob("*") if path.is_file())
    assert on_disk < 2**22


def header(kind: int, size: int) -> bytes:
    """Of an object in a pack: its kind, and its size in groups of bits."""
    out, size = [(kind << 4) | (size & 15)], size >> 4
    while size:
        out[-1] |= 0x80
        out.append(size & 0x7F)
        size >>= 7
    return bytes(out)


def test_a_pack_of_more_objects_than_are_taken(repo: TaskRepo) -> None:
    for count in (MAX_PACK_OBJECTS + 1, 2**32 - 1):
        body = b"PACK" + (2).to_bytes(4, "big") + count.to_bytes(4, "big")
        assert "objects" in refused_bytes(repo, body + hashlib.sha1(body).digest(), FILE.id).message


def test_a_pack_larger_than_is_taken(repo: TaskRepo) -> None:
    assert "bytes" in refused_bytes(repo, bytes(MAX_PACK_BYTES + 1), FILE.id).message


def test_a_pack_that_says_less_than_it_holds_or_more(repo: TaskRepo) -> None:
    whole = pack(FILE, tree(("100644", "a", FILE.id)))
    for count in (0, 1, 3, 100):
        body = whole[:8] + count.to_bytes(4, "big") + whole[12:-20]
        refused_bytes(repo, body + hashlib.sha1(body).digest(), tree(("100644", "a", FILE.id)).id)


def test_a_commit_in_place_of_a_tree(repo: TaskRepo) -> None:
    tip = tree(("100644", "a", FILE.id))
    who = b"A <a@example.org> 1 +0000"
    commit = Raw("commit", b"tree " + tip.id.encode() + b"\nauthor " + who + b"\ncommitter " + who + b"\n\nx\n")
    assert refused(repo, FILE, tip, commit).code == "tree_refused"
    link = tree(("160000", "sub", commit.id))
    repo.receive(TreePack(link.id, "0" * 40, pack(FILE, tip, commit, link)))  # a submodule: a name, never followed


def test_a_commit_or_a_blob_posing_as_an_entry_of_another_kind(repo: TaskRepo) -> None:
    inner = tree(("100644", "a", FILE.id))
    refused(repo, FILE, tree(("40000", "a", FILE.id)))
    refused(repo, FILE, inner, tree(("100644", "a", inner.id)))


def test_objects_of_another_tenant_s_repository(
    repo: TaskRepo, store: MirrorStore, host: GitServer, tmp_path: Path
) -> None:
    """Their ids may be known; the objects are not there to be referred to, nor to make a delta against."""
    theirs = mirror_of("theirs", store, host, tmp_path)
    assert theirs.path != repo.path
    secret = blob(b"of theirs\n")
    assert store._git.run("cat-file", "-p", secret.id, git_dir=theirs.path) == b"of theirs\n"
    refused(repo, tree(("100644", "stolen.txt", secret.id)))
    copied = Raw("ref-delta", bytes([10, 10, 0x90, 10]), secret.id)
    refused(repo, copied, tree(("100644", "stolen.txt", secret.id)))


def test_a_delta_without_its_base(repo: TaskRepo) -> None:
    dangling = Raw("ref-delta", bytes([6, 12, 0x90, 6, 0x90, 6]), "7" * 40)
    refused(repo, dangling, tree(("100644", "a", FILE.id)))


def test_a_tree_that_was_never_sent(repo: TaskRepo) -> None:
    assert refused(repo, FILE, tip=tree(("100644", "never", FILE.id))).code == "tree_refused"
    for name in ("HEAD", "--help", "refs/heads/main", "0" * 39, "0" * 40 + "\n"):
        with pytest.raises(GitError) as caught:
            repo.check_tree(name)
        assert caught.value.code == "object_id_invalid"


def test_a_tree_deeper_than_any_stack(repo: TaskRepo) -> None:
    """Git of this age calls itself for each level. It is git that falls over, if anything, and that is an error."""
    levels = [FILE, tree(("100644", "f", FILE.id))]
    for _ in range(20_000):
        levels.append(tree(("40000", "d", levels[-1].id)))
    tip = levels[-1].id

    def take_and_check() -> None:
        repo.receive(TreePack(tip, "0" * 40, pack(*levels)))
        repo.check_tree(tip)

    with pytest.raises(GitError) as caught:
        take_and_check()
    assert caught.value.code in ("pack_refused", "tree_refused")
