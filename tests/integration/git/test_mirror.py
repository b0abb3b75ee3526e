"""Mirrors: fetched once, refreshed by one command, shared without a copy, made anew when broken."""

import http.server
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from infra.settings import Settings
from tests.integration.git.source import Source
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.locks import held
from workers.git.mirror import Mirror, MirrorStore
from workers.git.objects import has_loose
from workers.git.remote import Credentials


def failing(store: MirrorStore, url: str, credentials: Credentials | None, **more: Any) -> GitError:
    with pytest.raises(GitError) as caught:
        store.refresh(uuid4(), url, credentials, **more)
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def with_settings(settings: Settings, **changes: Any) -> MirrorStore:
    changed = settings.model_copy(update=changes)
    return MirrorStore(changed.run_dir, changed)


def packs(mirror: Mirror) -> list[Path]:
    return sorted((mirror.path / "objects" / "pack").glob("*.pack"))


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


def test_what_is_wrong_with_a_repository_is_said_by_code(
    store: MirrorStore, settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    host.create("empty")
    run_git("init", "--quiet", "--bare", "--object-format=sha256", str(host.path("sha256")))
    other = host.root.parent / "sha256"
    run_git("init", "--quiet", "--object-format=sha256", str(other))
    run_git("-C", str(other), "commit", "--quiet", "--allow-empty", "--message=x")
    run_git("-C", str(other), "push", "--quiet", str(host.path("sha256")), "HEAD:refs/heads/main")
    wrong = Credentials("x-access-token", "wrong-password")

    assert failing(store, host.url("nothing"), credentials).code == "repo_not_found"
    assert failing(store, host.url("empty"), credentials).code == "repo_empty"
    assert failing(store, host.url("sha256"), credentials).code == "repo_unsupported"
    assert failing(store, host.url("repo"), None).code == "repo_auth_failed"
    error = failing(store, host.url("repo"), wrong)
    assert error.code == "repo_auth_failed"
    assert "wrong-password" not in error.message + error.hint
    elsewhere = with_settings(settings, allowed_repo_hosts=("127.0.0.1:1",))
    assert failing(elsewhere, "http://127.0.0.1:1/repo.git", None).code == "repo_unreachable"
    assert failing(elsewhere, host.url("repo"), credentials).code == "repo_host_private"
    named = with_settings(settings, allowed_repo_hosts=("nowhere.invalid",))
    assert failing(named, "http://nowhere.invalid/repo.git", None).code == "repo_unreachable"


def test_a_host_that_hangs_ends_in_a_timeout(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    host.hang()
    assert failing(with_settings(settings, git_timeout=0.5), host.url("repo"), credentials).code == "repo_timeout"


def test_a_repository_that_is_too_large_leaves_nothing_behind(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials
) -> None:
    source.write("noise.bin", os.urandom(300_000))
    source.commit("Large")
    source.push()
    for limit in (100_000, 300_500):  # the pack alone is too large; the pack fits, the mirror does not
        small = with_settings(settings, max_repo_bytes=limit)
        assert failing(small, host.url("repo"), credentials).code == "repo_too_large"
        assert [file for file in small._root.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_a_repository_that_became_too_large_is_not_kept_either(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials, tmp_path: Path
) -> None:
    store = with_settings(settings, max_repo_bytes=200_000)
    project = uuid4()
    mirror = store.refresh(project, host.url("repo"), credentials)
    source.write("noise.bin", os.urandom(300_000))
    source.commit("Large")
    source.push()
    with pytest.raises(GitError) as caught:
        store.refresh(project, host.url("repo"), credentials)
    assert caught.value.code == "repo_too_large"
    assert not mirror.path.exists()
    with pytest.raises(GitError) as caught:
        mirror.share_objects(tmp_path / "in")
    assert caught.value.code == "mirror_gone"


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


class _Static(http.server.SimpleHTTPRequestHandler):
    """Files of a repository, as a server that knows nothing of git offers them; or a redirect to another one."""

    seen: ClassVar[list[str]] = []
    redirect_to: ClassVar[str] = ""

    def do_GET(self) -> None:
        type(self).seen.append(self.path)
        if self.redirect_to:
            self.send_response(301)
            self.send_header("Location", self.redirect_to + self.path)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that refuses our certificate is what one test is about."""


@contextmanager
def static(root: Path, redirect_to: str = "", tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    handler = type("Handler", (_Static,), {"seen": seen, "redirect_to": redirect_to})
    with _Server(("127.0.0.1", 0), partial(handler, directory=str(root))) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


def certificate(directory: Path) -> Path:
    """A self-signed one for 127.0.0.1, in one file with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )  # fmt: skip
    encodings = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = directory / "certificate.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*encodings))
    return file


def test_certificates_are_checked_against_the_hosts_of_the_worker(
    settings: Settings, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_settings(settings, allowed_repo_hosts=("127.0.0.1",))
    run_git("clone", "--quiet", "--bare", source.remote, str(tmp_path / "served" / "repo.git"))
    run_git(f"--git-dir={tmp_path}/served/repo.git", "update-server-info")
    file = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    with static(tmp_path / "served", tls=tls) as (url, seen):
        monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
        monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
        error = failing(store, f"{url}/repo.git", None)
        assert (error.code, seen) == ("repo_unreachable", [])
        assert "certificate" in error.message
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert store.refresh(uuid4(), f"{url}/repo.git", None).resolve(None)[0] == "main"


def test_redirects_are_not_followed(settings: Settings, host: GitServer, source: Source, tmp_path: Path) -> None:
    host.set_auth("repo", None)
    with static(tmp_path, redirect_to=host.base_url) as (url, _):
        store = with_settings(settings, allowed_repo_hosts=("127.0.0.1",))
        assert failing(store, f"{url}/repo.git", None).code == "repo_redirected"
    assert host.requests == []


def test_a_server_without_git_is_read_but_its_alternates_are_not(
    settings: Settings, host: GitServer, source: Source, tmp_path: Path
) -> None:
    store = with_settings(settings, allowed_repo_hosts=("127.0.0.1",))
    dumb = tmp_path / "dumb" / "repo.git"
    run_git("clone", "--quiet", "--bare", source.remote, str(dumb))
    run_git(f"--git-dir={dumb}", "update-server-info")
    with static(tmp_path / "dumb") as (url, _), static(tmp_path) as (other_url, seen_there):
        mirror = store.refresh(uuid4(), f"{url}/repo.git", None)
        assert mirror.resolve(None)[0] == "main"
        assert packs(mirror)
        assert not has_loose(mirror.path / "objects")

        for file in dumb.glob("objects/??/*"):
            file.unlink()
        (dumb / "objects" / "info" / "http-alternates").write_text(f"{other_url}/secret/objects\n")
        failing(store, f"{url}/repo.git", None)
        assert seen_there == []
