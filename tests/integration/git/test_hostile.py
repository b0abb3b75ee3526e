"""Hostile repositories and a hostile environment: nothing of theirs is executed, read or obeyed on the host."""

import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.handmade import blob, tree
from tests.integration.git.handmade import pack as make_pack
from tests.integration.git.source import Source
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.mirror import MirrorStore
from workers.git.publish import publish, remote_head
from workers.git.remote import Credentials
from workers.git.repo import TaskRepo

Canary = Callable[[], str]
BRANCH = "farhand/01890a5d-ac96-774b-bcce-b302099a8057"
HOOKS = (
    "applypatch-msg", "fsmonitor-watchman", "post-checkout", "post-commit", "post-index-change", "post-merge",
    "post-receive", "post-rewrite", "post-update", "pre-auto-gc", "pre-commit", "pre-push", "pre-receive",
    "prepare-commit-msg", "proc-receive", "push-to-checkout", "reference-transaction", "update",
)  # fmt: skip


def plant_hooks(directory: Path, canary: Canary) -> None:
    directory.mkdir(exist_ok=True)
    for name in HOOKS:
        (directory / name).write_text(f"#!/bin/sh\n{canary()}\n")
        (directory / name).chmod(0o755)


def plant_config(repository: Path, canary: Canary) -> None:
    """Every setting that names a program which git could start where this repository is read or written."""
    hooks = repository.parent / f"{repository.name}-hooks"
    plant_hooks(hooks, canary)
    plant_hooks(repository / "hooks", canary)
    (repository / "info").mkdir(exist_ok=True)
    (repository / "info" / "attributes").write_text("* diff=evil filter=evil merge=evil\n")
    lines = {
        "core": {
            "hooksPath": str(hooks), "fsmonitor": canary(), "sshCommand": canary(), "gitProxy": canary(),
            "pager": canary(), "editor": canary(), "askPass": canary(), "alternateRefsCommand": canary(),
        },
        "diff": {"external": canary()},
        'diff "evil"': {"command": canary(), "textconv": canary()},
        'filter "evil"': {"clean": canary(), "smudge": canary(), "process": canary(), "required": "true"},
        'merge "evil"': {"driver": canary()},
        "credential": {"helper": f"!{canary()}"},
        "uploadpack": {"packObjectsHook": canary()},
        "gpg": {"program": canary()},
        "commit": {"gpgSign": "true"},
        "push": {"gpgSign": "if-asked"},
        "gc": {"auto": "1"},
    }  # fmt: skip
    with (repository / "config").open("a") as config:
        for section, settings in lines.items():
            config.write(f"[{section}]\n")
            for key, value in settings.items():
                escaped = value.replace("\\", "\\\\").replace('"', '\\"')
                config.write(f'\t{key} = "{escaped}"\n')


def do_everything(store: MirrorStore, url: str, credentials: Credentials | None, source: Source, at: Path) -> str:
    """The whole way of a task through this package; returns the commit that was pushed."""
    project = uuid4()
    store.refresh(project, url, credentials)
    mirror = store.refresh(project, url, credentials)
    _, base = mirror.resolve(None)
    source.write("greeting.txt", f"hello {at.name}\n")
    change = source.tree_pack()
    repo = TaskRepo.build(at, mirror, [change])
    repo.check_tree(change.tree)
    assert b"hello" in repo.diff(base, change.tree)
    assert repo.stat(base, change.tree).files_changed
    sha = repo.commit(change.tree, base, "Change", datetime(2024, 5, 1, tzinfo=UTC))
    publish(repo, url, credentials, branch=BRANCH, sha=sha, expected=None)
    assert remote_head(url, credentials, BRANCH, store._settings) == sha
    return sha


def test_the_content_of_a_repository_configures_nothing(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, canary: Canary
) -> None:
    source.write(".gitattributes", "* diff=evil filter=evil text eol=crlf\n")
    source.write(".gitconfig", f"[core]\n\tfsmonitor = {canary()}\n\tsshCommand = {canary()}\n")
    source.write("config", f"[core]\n\tfsmonitor = {canary()}\n")
    source.write("HEAD", "ref: refs/heads/main\n")
    source.write("objects/info/alternates", "/etc\n")
    source.write("hooks/pre-push", f"#!/bin/sh\n{canary()}\n")
    source.write(".husky/pre-push", f"#!/bin/sh\n{canary()}\n")
    (source.path / "shadow").symlink_to("/etc/passwd")
    source.commit("Hostile")
    source.push()
    assert host.refs("repo")["refs/heads/main"]
    do_everything(store, host.url("repo"), credentials, source, store._root / "task.git")


def test_submodules_and_lfs_are_not_followed(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, canary: Canary
) -> None:
    ours = f"{host.base_url}/submodule.git"
    source.write(
        ".gitmodules",
        f'[submodule "a"]\n\tpath = a\n\turl = {ours}\n'
        f'[submodule "b"]\n\tpath = b\n\turl = ext::sh -c "{canary()}"\n\tupdate = checkout\n',
    )
    source.write(".lfsconfig", f"[lfs]\n\turl = {host.base_url}/lfs\n")
    source.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    source.write("x.bin", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1' * 64}\nsize 12345\n")
    for path in ("a", "b"):
        source.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{path}")
        (source.path / path).mkdir()
    source.git("add", ".gitmodules", ".lfsconfig", ".gitattributes", "x.bin")
    source.git("commit", "--quiet", "--message=Hostile")
    source.push()
    do_everything(store, host.url("repo"), credentials, source, store._root / "task.git")
    assert {request.repository for request in host.requests} == {"repo"}


@pytest.mark.parametrize("name", [".git", ".GIT", "git~1", ".g\u200cit", ".."])
def test_a_repository_with_disguised_git_directories_is_refused_as_a_whole(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, name: str
) -> None:
    """Its objects are made by hand: no git would write or take them without being forced."""
    config = blob(b"[core]\n\tfsmonitor = touch /tmp/x\n")
    inner = tree(("100644", "config", config.id))
    outer = tree(("40000", name, inner.id))
    (source.path / "hostile.pack").write_bytes(make_pack(config, inner, outer))
    _unpack(host, source.path / "hostile.pack")
    sha = host.git("repo", "commit-tree", outer.id, "-m", "Hostile").strip()
    host.git("repo", "update-ref", "refs/heads/main", sha)
    with pytest.raises(GitError) as caught:
        store.refresh(uuid4(), host.url("repo"), credentials)
    assert caught.value.code == "repo_malformed"


def _unpack(host: GitServer, pack: Path) -> None:
    target = host.path("repo") / "objects" / "pack" / "pack-hostile.pack"
    target.write_bytes(pack.read_bytes())
    host.git("repo", "index-pack", str(target))


def test_old_harmless_blemishes_do_not_make_a_repository_unusable(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials
) -> None:
    file = blob(b"x\n")
    padded = tree(("100644", "a", file.id), ("040000", "b", tree(("100644", "a", file.id)).id))
    (source.path / "old.pack").write_bytes(make_pack(file, tree(("100644", "a", file.id)), padded))
    _unpack(host, source.path / "old.pack")
    sha = host.git("repo", "commit-tree", padded.id, "-m", "Old").strip()
    host.git("repo", "update-ref", "refs/heads/main", sha)
    assert store.refresh(uuid4(), host.url("repo"), credentials).resolve(None) == ("main", sha)


def test_the_configuration_of_our_own_repositories_is_overruled_where_it_could_start_a_program(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, canary: Canary
) -> None:
    """Nobody can write there; should somebody find a way, it still starts nothing."""
    project = uuid4()
    mirror = store.refresh(project, host.url("repo"), credentials)
    plant_config(mirror.path, canary)
    _, base = mirror.resolve(None)
    source.write("greeting.txt", "hello world\n")
    source.commit("More")
    source.push()
    mirror = store.refresh(project, host.url("repo"), credentials)
    repo = TaskRepo.build(store._root / "task.git", mirror, [])
    plant_config(repo.path, canary)
    change = source.tree_pack()
    repo.receive(change)
    repo.diff(base, change.tree)
    repo.stat(base, change.tree)
    sha = repo.commit(change.tree, base, "Change", datetime(2024, 5, 1, tzinfo=UTC))
    publish(repo, host.url("repo"), credentials, branch=BRANCH, sha=sha, expected=None)
    with pytest.raises(GitError):
        publish(repo, host.url("repo"), None, branch=BRANCH, sha=base, expected=sha)


def test_a_hostile_file_repository_starts_nothing(source: Source, canary: Canary, tmp_path: Path) -> None:
    served = Path(source.remote)
    plant_config(served, canary)
    (served / "objects" / "info" / "alternates").write_text(f"{source.path}/.git/objects\n")
    with (served / "config").open("a") as config:
        config.write(f'[remote "evil"]\n\turl = "ext::sh -c \\"{canary()}\\""\n\tpromisor = true\n')
        config.write("[extensions]\n\tpartialClone = evil\n[core]\n\trepositoryformatversion = 1\n")
    settings = Settings.model_validate({"allowed_repo_hosts": ("file",), "run_dir": tmp_path / "run"})
    store = MirrorStore(settings.run_dir, settings)
    do_everything(store, f"file://{served}", None, source, tmp_path / "task.git")


def test_a_file_repository_of_another_user_can_be_read(source: Source, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory to another user")
    for path in [Path(source.remote), *Path(source.remote).rglob("*")]:
        os.chown(path, 12345, 12345)
    settings = Settings.model_validate({"allowed_repo_hosts": ("file",), "run_dir": tmp_path / "run"})
    mirror = MirrorStore(settings.run_dir, settings).refresh(uuid4(), f"file://{source.remote}", None)
    assert mirror.resolve(None)[0] == "main"


@pytest.fixture
def hostile_home(
    host: GitServer, source: Source, canary: Canary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A home directory and an environment in which everything that git could obey is hostile."""
    home = tmp_path / "home"
    (home / ".config" / "git").mkdir(parents=True)
    for file in (home / ".gitconfig", home / ".config" / "git" / "config"):
        file.write_text(
            f'[core]\n\thooksPath = {home}/hooks\n\tfsmonitor = "{canary()}"\n'
            f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {host.base_url}/\n[http]\n\tproxy = http://127.0.0.1:1\n'
        )
    plant_hooks(home / "hooks", canary)
    (home / ".netrc").write_text("machine 127.0.0.1 login x-access-token password s3cret-token\n")
    hostile = {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_SYSTEM": str(home / ".gitconfig"), "GIT_CONFIG_PARAMETERS": "'http.proxy=http://127.0.0.1:1'",
        "GIT_DIR": str(home), "GIT_INDEX_FILE": str(home / "index"), "GIT_OBJECT_DIRECTORY": str(home),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/etc", "GIT_EXTERNAL_DIFF": canary(), "GIT_ASKPASS": canary(),
        "SSH_ASKPASS": canary(), "GIT_SSH_COMMAND": canary(), "GIT_PROXY_COMMAND": canary(), "GIT_PAGER": canary(),
        "GIT_EXEC_PATH": str(home), "GIT_TEMPLATE_DIR": str(home), "GIT_TRACE_CURL": str(home / "trace"),
        "GIT_TRACE": str(home / "trace"), "GIT_CURL_VERBOSE": "1", "GIT_SSL_NO_VERIFY": "1",
        "http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1",
        "GIT_NAMESPACE": "x", "GIT_ALLOW_PROTOCOL": "ext", "GIT_DEFAULT_HASH": "sha256", "LC_ALL": "de_DE.UTF-8",
    }  # fmt: skip
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    return home


def test_the_environment_and_home_of_the_worker_configure_nothing(
    store: MirrorStore, host: GitServer, source: Source, credentials: Credentials, hostile_home: Path
) -> None:
    with pytest.raises(GitError) as caught:
        store.refresh(uuid4(), host.url("repo"), None)  # the password in ~/.netrc is not used
    assert caught.value.code == "repo_auth_failed"
    do_everything(store, host.url("repo"), credentials, source, store._root / "task.git")
    assert not (hostile_home / "trace").exists()


def test_the_address_that_was_checked_is_the_one_that_git_connects_to(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name exists for nobody but this process: git reaches the host only by the address that it was given."""
    port = host.server_address[1]

    def answer(name: str, asked: int, **_: Any) -> list[tuple[Any, ...]]:
        assert (name, asked) == ("pinned.example", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    listed = settings.model_copy(update={"allowed_repo_hosts": (f"pinned.example:{port}",)})
    store = MirrorStore(listed.run_dir, listed)
    mirror = store.refresh(uuid4(), f"http://pinned.example:{port}/repo.git", credentials)
    assert mirror.resolve(None)[0] == "main"


def test_a_public_name_that_turns_private_is_not_connected_to(
    settings: Settings, host: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    store = MirrorStore(settings.run_dir, settings)
    with pytest.raises(GitError) as caught:
        store.refresh(uuid4(), "https://rebind.example/repo.git", None)
    assert caught.value.code == "repo_host_private"


def test_no_file_and_no_command_line_ever_holds_the_password(
    settings: Settings, host: GitServer, source: Source, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    store = MirrorStore(settings.run_dir, settings)
    caplog.set_level("DEBUG")
    host.hang()
    seen: list[bytes] = []

    def look() -> None:
        host.wait_until(lambda requests: len(requests) >= 1)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen.append((process / "cmdline").read_bytes())
            except OSError:
                continue
        host.resume()

    looking = threading.Thread(target=look)
    looking.start()
    mirror = store.refresh(uuid4(), host.url("repo"), credentials)
    looking.join()
    assert any(b"ls-remote" in line for line in seen)
    secrets = [secret.encode() for secret in credentials.secrets()]
    assert not any(secret in line for secret in secrets for line in seen)
    for file in settings.run_dir.rglob("*"):
        assert not file.is_file() or not any(secret in file.read_bytes() for secret in secrets), file
    assert credentials.password not in caplog.text + repr(credentials) + repr(vars(mirror))
