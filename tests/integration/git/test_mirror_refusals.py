"""What is not mirrored: what is not there, too large, too slow, or served by a host that is not to be trusted."""

import os
import ssl
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.mirrors import failing, packs, with_settings
from tests.integration.git.source import Source
from tests.integration.git.static_host import certificate, static
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.mirror import MirrorStore
from workers.git.objects import has_loose
from workers.git.remote import Credentials


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
