"""Mirrors that others use at the same time: shared without a copy, waited for, made anew when broken."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.mirrors import packs, with_settings
from tests.integration.git.source import Source
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.locks import held
from workers.git.mirror import Mirror, MirrorStore
from workers.git.remote import Credentials


def test_shared_objects_stand_alone_and_everyone_may_read_them(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, head = mirror.resolve(None)
    target = tmp_path / "in"
    target.mkdir()
    mask = os.umask(0o077)
    try:
        mirror.share_objects(target)
        mirror.share_objects(target)
    finally:
        os.umask(mask)
    files = sorted((target / "objects" / "pack").iterdir())
    assert {file.suffix for file in files} == {".pack", ".idx"}
    for file in files:
        assert file.stat().st_nlink == 2
        assert stat.S_IMODE(file.stat().st_mode) == 0o444
    for directory in (target / "objects", target / "objects" / "pack", target / "objects" / "info"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert list((target / "objects" / "info").iterdir()) == []
    assert stat.S_IMODE(mirror.path.parent.stat().st_mode) == 0o700

    bare = tmp_path / "bare.git"
    run_git("init", "--quiet", "--bare", str(bare))
    (bare / "objects" / "info" / "alternates").write_text(f"{target}/objects\n")
    for file in packs(mirror):
        file.unlink()
    run_git(f"--git-dir={bare}", "update-ref", "refs/heads/main", head)
    run_git(f"--git-dir={bare}", "fsck", "--full")


def test_objects_are_copied_where_they_cannot_be_linked(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_device(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_device)
    mirror.share_objects(tmp_path / "in")
    copied = sorted((tmp_path / "in" / "objects" / "pack").glob("*.pack"))
    assert [file.read_bytes() for file in copied] == [file.read_bytes() for file in packs(mirror)]


@pytest.fixture
def few_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every refresh with news repacks; a directory to share to."""
    monkeypatch.setattr("workers.git.refresh._MAX_PACKS", 1)
    return tmp_path


def test_objects_are_shared_whole_while_others_fetch_and_repack(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, few_packs: Path
) -> None:
    project = uuid4()
    mirror = store.refresh(project, host.url("repo"), credentials)
    _, head = mirror.resolve(None)
    done = threading.Event()
    shared: list[Path] = []

    def share() -> None:
        while not done.is_set():
            shared.append(few_packs / f"in{len(shared)}")
            mirror.share_objects(shared[-1])

    sharing = threading.Thread(target=share)
    sharing.start()
    try:
        for number in range(6):
            source.write("more.txt", f"{number}\n")
            source.commit(f"{number}")
            source.push()
            store.refresh(project, host.url("repo"), credentials)
    finally:
        done.set()
        sharing.join()
    assert len(shared) > 6
    for target in shared[:: max(1, len(shared) // 20)]:
        bare = target / "bare.git"
        run_git("init", "--quiet", "--bare", str(bare))
        (bare / "objects" / "info" / "alternates").write_text(f"{target}/objects\n")
        run_git(f"--git-dir={bare}", "rev-list", "--objects", "--quiet", head)


def _cut_a_pack(mirror: Path) -> None:
    file = next((mirror / "objects" / "pack").glob("*.pack"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-30])


def _remove_a_pack(mirror: Path) -> None:
    next((mirror / "objects" / "pack").glob("*.pack")).unlink()


def _garble_the_state(mirror: Path) -> None:
    (mirror / "farhand").write_text('{"url": 3')


def _remove_the_state(mirror: Path) -> None:
    (mirror / "farhand").unlink()


def _break_the_repository(mirror: Path) -> None:
    """Its packs look well, but git does not take it for a repository; and there is news to fetch."""
    (mirror / "HEAD").unlink()
    state = json.loads((mirror / "farhand").read_text())
    (mirror / "farhand").write_text(json.dumps(state | {"digest": "of an earlier refresh"}))


@pytest.mark.parametrize(
    "damage", [_cut_a_pack, _remove_a_pack, _garble_the_state, _remove_the_state, _break_the_repository]
)
def test_a_broken_mirror_is_made_anew(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, damage: Any
) -> None:
    project = uuid4()
    mirror = store.refresh(project, host.url("repo"), credentials)
    leftovers = mirror.path.with_suffix(".new")
    leftovers.mkdir()
    (leftovers / "partial").write_text("of a clone that was killed")
    damage(mirror.path)
    again = store.refresh(project, host.url("repo"), credentials)
    run_git(f"--git-dir={again.path}", "fsck", "--full", "--strict")
    assert run_git(f"--git-dir={again.path}", "rev-parse", "main").strip() == again.resolve(None)[1]
    assert not leftovers.exists()
    assert not (again.path / "partial").exists()


_REFRESH = """
import sys
from pathlib import Path
from uuid import UUID
from infra.settings import Settings
from workers.git.mirror import MirrorStore
from workers.git.remote import Credentials
run_dir, url, allowed, project, password = sys.argv[1:]
settings = Settings.model_validate({"run_dir": run_dir, "allowed_repo_hosts": (allowed,), "git_timeout": 30})
store = MirrorStore(Path(run_dir), settings)
credentials = Credentials("x-access-token", password)
store.refresh(UUID(project), url, credentials, progress=lambda *what: print(what, flush=True))
"""


def _refreshing(settings: Settings, url: str, project: UUID, credentials: Credentials) -> subprocess.Popen[str]:
    arguments = [str(settings.run_dir), url, settings.allowed_repo_hosts[0], str(project), credentials.password]
    return subprocess.Popen([sys.executable, "-c", _REFRESH, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_worker_that_is_killed_while_it_fetches_leaves_a_mirror_that_works(
    store: MirrorStore, settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    host.hang()
    with _refreshing(settings, host.url("repo"), project, credentials) as worker:
        host.wait_until(lambda requests: len(requests) == 1)
        worker.send_signal(signal.SIGKILL)
    host.resume()
    mirror = store.refresh(project, host.url("repo"), credentials)
    assert mirror.resolve(None)[0] == "main"


def test_a_second_worker_waits_for_the_first_and_says_so(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    project = uuid4()
    lock = settings.run_dir / "m" / f"{project}.fetch.lock"
    lock.parent.mkdir(parents=True)
    with held(lock, timeout=1):
        worker = _refreshing(settings, host.url("repo"), project, credentials)
        assert worker.stdout is not None
        assert "waiting for another task" in worker.stdout.readline()
        assert host.requests == []
    with worker:
        assert "receiving objects" in worker.stdout.read()
    assert worker.returncode == 0


def test_a_lock_that_is_never_given_up_ends_in_an_error(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    store = with_settings(settings, git_timeout=0.1)
    project = uuid4()
    with held(settings.run_dir / "m" / f"{project}.fetch.lock", timeout=1), pytest.raises(GitError) as caught:
        store.refresh(project, host.url("repo"), credentials)
    assert caught.value.code == "repo_timeout"
