"""What comes out of a sandbox: packs of trees, hostile ones among them, and what is made of them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.integration.git.handmade import Raw, blob, pack, swelling_delta, tree
from tests.integration.git.source import Source
from tests.standin.git_command import run_git
from workers.git.errors import GitError
from workers.git.mirror import Mirror
from workers.git.repo import MAX_PACK_BYTES, DiffStat, TaskRepo, TreePack

NOON = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
FILE = blob(b"content\n")


@pytest.fixture
def repo(tmp_path: Path, mirror: Mirror) -> TaskRepo:
    return TaskRepo.build(tmp_path / "task.git", mirror, [])


def refused(repo: TaskRepo, *objects: Raw, tip: Raw | None = None) -> GitError:
    with pytest.raises(GitError) as caught:
        repo.receive(TreePack((tip or objects[-1]).id, "0" * 40, pack(*objects)))
    return caught.value


def taken(repo: TaskRepo, *objects: Raw) -> str:
    repo.receive(TreePack(objects[-1].id, "0" * 40, pack(*objects)))
    return objects[-1].id


def test_a_tree_becomes_a_commit_a_diff_and_figures(repo: TaskRepo, mirror: Mirror, source: Source) -> None:
    _, base = mirror.resolve(None)
    source.write("greeting.txt", "hello\nworld\n")
    source.write("new.bin", bytes(range(256)))
    change = source.tree_pack()
    repo.receive(change)

    sha = repo.commit(change.tree, base, "Say more", NOON)

    told = run_git(f"--git-dir={repo.path}", "log", "-1", "--format=%an <%ae>|%cn <%ce>|%aI|%cI|%s|%P|%T", sha).strip()
    who = "Farhand <farhand@farhand.invalid>"
    when = "2024-05-01T12:00:00+00:00"
    assert told == f"{who}|{who}|{when}|{when}|Say more|{base}|{change.tree}"
    assert repo.stat(base, change.tree) == DiffStat(files_changed=2, insertions=1, deletions=0)
    source.git("reset", "--quiet", "--hard", base)
    (source.path / "p.diff").write_bytes(repo.diff(base, sha))
    source.git("apply", "--index", "p.diff")
    assert source.git("write-tree") == change.tree


def test_a_commit_is_a_function_of_its_row(repo: TaskRepo, mirror: Mirror, source: Source, tmp_path: Path) -> None:
    _, base = mirror.resolve(None)
    tip = run_git(f"--git-dir={mirror.path}", "rev-parse", f"{base}^{{tree}}").strip()
    elsewhere = TaskRepo.build(tmp_path / "elsewhere.git", mirror, [])
    first = repo.commit(tip, base, "Message\n\nwith body \0 and ü", NOON)
    assert elsewhere.commit(tip, base, "Message\n\nwith body \0 and ü", NOON.astimezone()) == first
    assert repo.commit(tip, base, "Other", NOON) != first


def test_trees_build_on_each_other_and_are_restored_in_order(mirror: Mirror, source: Source, tmp_path: Path) -> None:
    source.write("a.txt", "one\n" * 99)
    source.write("b.txt", "two\n")
    first = source.tree_pack()
    source.git("commit", "--quiet", "--message=step")
    source.write("a.txt", "one\n" * 100)
    second = source.tree_pack()
    assert len(second.data) < 400
    _, base = mirror.resolve(None)

    repo = TaskRepo.build(tmp_path / "task.git", mirror, [first, second])
    assert repo.stat(base, second.tree) == DiffStat(2, 101, 0)
    shared = tmp_path / "shared"
    mirror.share_objects(shared)
    repo.share_packs(shared)
    bare = tmp_path / "inside.git"
    run_git("init", "--quiet", "--bare", str(bare))
    (bare / "objects" / "info" / "alternates").write_text(f"{shared}/objects\n")
    assert run_git(f"--git-dir={bare}", "ls-tree", "--name-only", second.tree).split()[0] == "a.txt"

    with pytest.raises(GitError) as caught:
        TaskRepo.build(tmp_path / "task.git", mirror, [second])
    assert caught.value.code == "pack_refused"


def test_a_thin_pack_is_completed_from_the_mirror(repo: TaskRepo, mirror: Mirror) -> None:
    hello = blob(b"hello\n")  # the mirror has it
    twice = Raw("ref-delta", bytes([6, 12, 0x90, 6, 0x90, 6]), hello.id)
    change = tree(("100644", "greeting.txt", blob(b"hello\nhello\n").id))
    repo.receive(TreePack(change.id, "0" * 40, pack(twice, change)))
    assert b"+hello" in repo.diff(mirror.resolve(None)[1], change.id)


def test_an_unchanged_tree_may_come_as_an_empty_pack(repo: TaskRepo, source: Source) -> None:
    repo.receive(source.tree_pack())


@pytest.mark.parametrize(
    "name",
    [
        ".git", ".GIT", ".Git", ".git ", ".git.", "git~1", "GIT~1", ".g\u200cit", ".gi\u200dt", "\u200d.git",
        ".git::$INDEX_ALLOCATION", ".git\\config", "..", ".", "a/b", "",
    ],
)  # fmt: skip
def test_a_name_that_any_file_system_takes_for_git_or_a_way_out_is_refused(repo: TaskRepo, name: str) -> None:
    inner = tree(("100644", "config", FILE.id))
    error = refused(repo, FILE, inner, tree(("40000", name, inner.id)))
    assert error.code == "pack_refused"
    assert error.hint


def test_such_a_name_is_refused_deep_below_and_as_a_file_and_a_symlink_too(repo: TaskRepo) -> None:
    for mode in ("100644", "120000", "160000"):
        inner = tree((mode, ".GIT", FILE.id))
        assert refused(repo, FILE, inner, tree(("40000", "a", inner.id))).code == "pack_refused"


def test_a_gitmodules_file_that_is_a_symlink_or_names_an_option_is_refused(repo: TaskRepo) -> None:
    assert refused(repo, FILE, tree(("120000", ".gitmodules", FILE.id))).code == "pack_refused"
    evil = blob(b'[submodule "x"]\n\tpath = x\n\turl = --upload-pack=touch\n')
    assert refused(repo, evil, tree(("100644", ".gitmodules", evil.id))).code == "pack_refused"
    climbing = blob(b'[submodule "../../hooks"]\n\tpath = x\n\turl = https://example.org/x\n')
    assert refused(repo, climbing, tree(("100644", ".gitmodules", climbing.id))).code == "pack_refused"


def test_a_tree_that_lacks_an_object_is_refused(repo: TaskRepo) -> None:
    for mode in ("100644", "40000"):
        assert refused(repo, tree((mode, "a", "1" * 40))).code == "pack_refused"


@pytest.mark.parametrize(
    "entries",
    [
        (("100644", "b", FILE.id), ("100644", "a", FILE.id)),
        (("100644", "a", FILE.id), ("100644", "a", FILE.id)),
        (("107777777", "a", FILE.id),),
        (("0100644", "a", FILE.id),),
        (("100644", "a", "0" * 40),),
    ],
)
def test_a_malformed_tree_is_refused(repo: TaskRepo, entries: tuple[tuple[str, str, str], ...]) -> None:
    assert refused(repo, FILE, tree(*entries)).code == "pack_refused"


def test_a_pack_that_is_damaged_cut_or_not_one_is_refused(repo: TaskRepo) -> None:
    whole = pack(FILE, tree(("100644", "a", FILE.id)))
    tip = tree(("100644", "a", FILE.id)).id
    for bad in (b"", b"PACK", whole[:-1], whole[:40], whole[:20] + b"\xff" + whole[21:], b"\0" * 1000):
        with pytest.raises(GitError) as caught:
            repo.receive(TreePack(tip, "0" * 40, bad))
        assert caught.value.code == "pack_refused"
    with pytest.raises(GitError) as caught:
        repo.receive(TreePack(tip, "0" * 40, b"\0" * (MAX_PACK_BYTES + 1)))
    assert caught.value.code == "pack_refused"
    assert not [*(repo.path / "objects" / "pack").glob("tmp_*")]


def test_a_pack_that_swells_beyond_memory_is_refused(repo: TaskRepo) -> None:
    base = blob(b"\0" * 0x10000)
    bomb = swelling_delta(base, times=0x14000)  # 5 GiB
    bomb_pack = pack(base, bomb)
    assert len(bomb_pack) < 5000
    with pytest.raises(GitError) as caught:
        repo.receive(TreePack(FILE.id, "0" * 40, bomb_pack))
    assert caught.value.code == "pack_refused"


def test_a_thin_pack_that_swells_on_disk_is_bounded(repo: TaskRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.git.repo._MAX_WHOLE_PACK_BYTES", 4096)
    noise = blob(b"".join(i.to_bytes(4, "big") for i in range(0, 2**32, 2**18)))
    assert refused(repo, noise, tree(("100644", "a", noise.id))).code == "pack_refused"


def test_a_tree_without_end_is_refused_before_it_is_walked(repo: TaskRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [FILE, tree(*(("100644", f"f{n}", FILE.id) for n in range(10)))]
    for _ in range(9):
        levels.append(tree(*(("40000", f"d{n}", levels[-1].id) for n in range(10))))
    tip = taken(repo, *levels)
    monkeypatch.setattr("workers.git.repo.MAX_ENTRIES_BYTES", 2**20)
    with pytest.raises(GitError) as caught:
        repo.check_tree(tip)
    assert caught.value.code == "tree_refused"
    assert "too many files" in caught.value.message


def test_a_tree_that_the_pack_does_not_bring_is_refused(repo: TaskRepo, mirror: Mirror) -> None:
    assert refused(repo, FILE, tip=tree(("100644", "a", FILE.id))).code == "tree_refused"
    assert refused(repo, FILE, tip=FILE).code == "tree_refused"
    repo.check_tree(taken(repo, FILE, tree(("100644", "a", FILE.id))))


@pytest.mark.parametrize("bad", ["HEAD", "--all", "", "a" * 39, "A" * 40, "a" * 40 + "\n", "a" * 40 + "^"])
def test_only_full_object_ids_reach_a_command(repo: TaskRepo, bad: str) -> None:
    good = "a" * 40
    for call in (
        lambda: repo.check_tree(bad),
        lambda: repo.commit(bad, good, "m", NOON),
        lambda: repo.commit(good, bad, "m", NOON),
        lambda: repo.diff(bad, good),
        lambda: repo.stat(good, bad),
    ):
        with pytest.raises(GitError) as caught:
            call()
        assert caught.value.code == "object_id_invalid"


def test_the_changes_of_a_repo_with_submodules_and_symlinks_are_taken(
    mirror: Mirror, repo: TaskRepo, source: Source
) -> None:
    source.write(".gitmodules", '[submodule "lib"]\n\tpath = lib\n\turl = https://example.org/lib\n')
    (source.path / "outside").symlink_to("/etc/passwd")
    source.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},lib")
    change = source.tree_pack()
    repo.receive(change)
    _, base = mirror.resolve(None)
    said = repo.diff(base, change.tree).decode()
    assert "+/etc/passwd" in said
    assert "root:" not in said


def test_a_large_diff_first_loses_binary_contents_and_is_then_cut(
    mirror: Mirror, repo: TaskRepo, source: Source
) -> None:
    _, base = mirror.resolve(None)
    source.write("a.txt", "".join(f"line {n}\n" for n in range(300)))
    source.write("b.bin", b"\0" + b"".join((n * 7919 % 2**32).to_bytes(4, "big") for n in range(5000)))
    change = source.tree_pack()
    repo.receive(change)
    whole = repo.diff(base, change.tree)
    assert b"GIT binary patch" in whole
    shorter = repo.diff(base, change.tree, max_bytes=8000)
    assert b"Binary files /dev/null and b/b.bin differ" in shorter
    cut = repo.diff(base, change.tree, max_bytes=2000)
    assert len(cut) <= 2000
    assert cut.endswith(b"\n# Cut here: the diff is larger than this deployment keeps.\n")
    assert whole.startswith(cut[:1000])


def test_a_huge_file_is_not_compared_line_by_line(mirror: Mirror, repo: TaskRepo, source: Source) -> None:
    _, base = mirror.resolve(None)
    source.write("huge.txt", "line\n" * 4_000_000)
    change = source.tree_pack()
    repo.receive(change)
    assert repo.stat(base, change.tree) == DiffStat(1, 0, 0)
    assert len(repo.diff(base, change.tree)) < 100_000


def test_an_equal_tree_has_an_empty_diff(repo: TaskRepo, mirror: Mirror) -> None:
    _, base = mirror.resolve(None)
    assert repo.diff(base, base) == b""
    assert repo.stat(base, base) == DiffStat(0, 0, 0)
