"""Mirrors: fetched once, refreshed by one command, kept small."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.mirrors import failing, packs, with_settings
from tests.integration.git.source import Source
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.mirror import Mirror, MirrorStore
from workers.git.objects import has_loose
from workers.git.remote import Credentials


def test_the_first_refresh_clones_and_says_how_far_it_is(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    told: list[tuple[str, int]] = []
    mirror = store.refresh(uuid4(), host.url("repo"), credentials, progress=lambda *what: told.append(what))
    head = host.refs("repo")["refs/heads/main"]
    assert mirror.default_branch() == "main"
    assert mirror.resolve(None) == ("main", head)
    assert mirror.resolve("main") == ("main", head)
    assert ("receiving objects", 100) in told
    assert all(0 <= percent <= 100 for _, percent in told)


def test_an_unchanged_repository_costs_one_question(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    first = store.refresh(project, host.url("repo"), credentials)
    before = len(host.requests)
    again = store.refresh(project, host.url("repo"), credentials)
    paths = [(request.method, request.path.rpartition("/")[2]) for request in host.requests[before:]]
    assert paths == [("GET", "refs"), ("POST", "git-upload-pack")]
    assert again.resolve(None) == first.resolve(None)


def test_new_moved_and_deleted_branches_arrive(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    old = store.refresh(project, host.url("repo"), credentials)
    _, first = old.resolve(None)
    first_made = old.path.stat().st_ino
    source.write("more.txt", "more\n")
    second = source.commit("Second commit")
    source.push("HEAD:refs/heads/main", "HEAD:refs/heads/topic/a")
    new = store.refresh(project, host.url("repo"), credentials)
    assert new.resolve(None) == ("main", second)
    assert new.resolve("topic/a") == ("topic/a", second)
    assert old.resolve(None) == ("main", first)

    source.push(":refs/heads/topic/a")
    source.push("HEAD:refs/heads/topic")
    host.git("repo", "symbolic-ref", "HEAD", "refs/heads/topic")
    latest = store.refresh(project, host.url("repo"), credentials)
    assert latest.resolve(None) == ("topic", second)
    assert latest.path.stat().st_ino == first_made  # fetched into, not cloned anew
    with pytest.raises(GitError) as caught:
        latest.resolve("topic/a")
    assert caught.value.code == "branch_not_found"
    assert "main, topic" in caught.value.hint


@pytest.mark.parametrize("branch", ["nope", "--upload-pack=x", "../main", "main\n", "HEAD", ""])
def test_a_branch_that_is_not_there_is_named(mirror: Mirror, branch: str) -> None:
    with pytest.raises(GitError) as caught:
        mirror.resolve(branch)
    assert caught.value.code == "branch_not_found"


def test_a_default_branch_that_does_not_exist_is_said_and_others_can_be_named(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    host.git("repo", "symbolic-ref", "HEAD", "refs/heads/gone")
    mirror = store.refresh(uuid4(), host.url("repo"), credentials)
    assert mirror.resolve("main")[0] == "main"
    with pytest.raises(GitError) as caught:
        mirror.default_branch()
    assert caught.value.code == "branch_not_found"


def test_everything_is_kept_in_few_packs(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_is_loose(objects: Path) -> bool:
        assert not has_loose(objects)
        return False

    monkeypatch.setattr("workers.git.refresh.has_loose", none_is_loose)
    monkeypatch.setattr("workers.git.refresh._MAX_PACKS", 3)
    project = uuid4()
    rewritten = ""
    for number in range(5):
        source.write("more.txt", f"{number}\n")
        rewritten = rewritten or source.commit("rewritten later")
        source.git("commit", "--quiet", "--all", "--amend", "--allow-empty", f"--message={number}")
        source.push("HEAD:refs/heads/main") if number else source.push(f"{rewritten}:refs/heads/main")
        mirror = store.refresh(project, host.url("repo"), credentials)
        assert len(packs(mirror)) <= 3
    # A task may still build on a commit that no branch has any more.
    assert run_git(f"--git-dir={mirror.path}", "cat-file", "-t", rewritten).strip() == "commit"


def test_another_url_gets_another_mirror(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    store.refresh(project, host.url("repo"), credentials)
    other = Source(source.path.parent / "other")
    other.write("other.txt", "other\n")
    sha = other.commit("Other")
    host.create("other", from_dir=other.path)
    mirror = store.refresh(project, host.url("other"), credentials)
    assert mirror.resolve(None) == ("main", sha)
    assert run_git(f"--git-dir={mirror.path}", "rev-list", "--all", "--count").strip() == "1"


def test_what_a_killed_fetch_left_is_swept(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    mirror = store.refresh(project, host.url("repo"), credentials)
    leftovers = [mirror.path / "objects" / "pack" / name for name in ("tmp_pack_x", "pack-x.keep")]
    for leftover in leftovers:
        leftover.write_bytes(b"x")
    source.commit("News")
    source.push()
    store.refresh(project, host.url("repo"), credentials)
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_mirror_that_has_grown_by_what_branches_left_is_cloned_anew(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    store = with_settings(settings, max_repo_bytes=400_000)
    project = uuid4()
    for _ in range(3):
        source.write("noise.bin", os.urandom(150_000))
        source.git("add", "--all")
        source.git("commit", "--quiet", "--amend", "--message=Again")
        source.push()
        mirror = store.refresh(project, host.url("repo"), credentials)
        assert sum(pack.stat().st_size for pack in packs(mirror)) < 400_000


def test_commits_that_a_task_builds_on_are_fetched_by_id(
    store: MirrorStore, settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    left = source.commit("Left by its branch")
    source.push(f"{left}:refs/heads/farhand/x")
    source.push(":refs/heads/farhand/x")
    mirror = store.refresh(project, host.url("repo"), credentials, commits=[left])
    assert run_git(f"--git-dir={mirror.path}", "cat-file", "-t", left).strip() == "commit"
    before = len(host.requests)
    store.refresh(project, host.url("repo"), credentials, commits=[left])
    assert len(host.requests) == before + 2
    assert failing(store, host.url("repo"), credentials, commits=["1" * 40]).code == "commit_gone"


def test_the_mirror_of_a_file_repository(tmp_path: Path, source: Source) -> None:
    settings = Settings.model_validate({"allowed_repo_hosts": ("file",)})
    mirror = MirrorStore(tmp_path / "run", settings).refresh(uuid4(), f"file://{source.remote}", None)
    assert mirror.resolve(None)[0] == "main"
    closed = MirrorStore(tmp_path / "run", Settings.model_validate({}))
    assert failing(closed, f"file://{source.remote}", None).code == "repo_scheme_refused"
    error = failing(MirrorStore(tmp_path / "run", settings), f"file://{tmp_path}/nothing", None)
    assert error.code == "repo_not_found"
