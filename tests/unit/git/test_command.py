"""The bounds of one git command."""

import hashlib
import os
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from infra.settings import Settings
from workers.git import command
from workers.git.command import Git
from workers.git.errors import CommandFailed, GitError
from workers.git.remote import Credentials, Remote


def git_with(**changes: object) -> Git:
    return Git(Settings.model_validate({"git_timeout": 20, **changes}))


def program(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a script in the place of git."""
    directory.mkdir(exist_ok=True)
    (directory / "git").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_it_returns_what_git_printed_and_fails_with_what_git_said() -> None:
    assert git_with().run("version").startswith(b"git version")
    with pytest.raises(CommandFailed) as caught:
        git_with().run("no-such-command")
    assert caught.value.reason == "status"
    assert "not a git command" in caught.value.stderr


def test_a_large_input_reaches_git() -> None:
    content = b"x" * 3_000_000
    expected = hashlib.sha1(b"blob 3000000\0" + content).hexdigest()
    assert git_with().run("hash-object", "--stdin", stdin=content).decode().strip() == expected


def test_a_command_that_takes_too_long_is_killed_with_all_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = git_with(git_timeout=0.3)
    program(tmp_path / "bin", monkeypatch, f"sleep 60 & echo $! > {tmp_path}/child; echo slow >&2; wait")
    began = time.monotonic()
    with pytest.raises(CommandFailed) as caught:
        git.run("anything")
    assert caught.value.reason == "timeout"
    assert "slow" in caught.value.stderr
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    try:
        descriptor = os.pidfd_open(child)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 10)[0]  # readable once it has died
    os.close(descriptor)


def test_endless_output_is_cut_and_the_command_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = git_with()
    program(tmp_path / "bin", monkeypatch, "exec yes")
    with pytest.raises(CommandFailed) as caught:
        git.run("anything", max_output=1000)
    assert caught.value.reason == "output"
    assert len(caught.value.stdout) == 1000


def test_endless_messages_do_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = git_with(git_timeout=0.5)
    program(tmp_path / "bin", monkeypatch, "exec yes >&2")
    with pytest.raises(CommandFailed) as caught:
        git.run("anything")
    assert caught.value.reason == "timeout"
    assert len(caught.value.stderr) <= command.MAX_STDERR_CHARS


def test_files_and_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = git_with()
    program(
        tmp_path / "bin", monkeypatch, f"ulimit -f; ulimit -v; ulimit -c; head -c 100000 /dev/zero > {tmp_path}/out"
    )
    with pytest.raises(CommandFailed) as caught:
        git.run("anything", max_file_bytes=10_000)
    assert "File too large" in caught.value.stderr
    assert (tmp_path / "out").stat().st_size < 11_000
    assert caught.value.stdout.split() == [b"20", str(command.MAX_MEMORY_BYTES // 1024).encode(), b"0"]


def test_an_interruption_of_the_caller_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = git_with()
    program(tmp_path / "bin", monkeypatch, "echo $$ >&2; exec sleep 60")
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        git.run("anything", on_progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(told[0]), 0)


def test_only_what_git_needs_of_the_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    git = git_with()
    monkeypatch.setenv("FARHAND_SECRET_KEYS", "not for git")
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    program(tmp_path / "bin", monkeypatch, "env")
    names = dict(line.partition("=")[::2] for line in git.run("anything").decode().splitlines())
    assert names["GIT_SSL_CAINFO"] == "/ca.pem"
    assert {name for name in names if not name.startswith("GIT_")} <= {
        "PATH", "TMPDIR", "HOME", "LC_ALL", "PWD", "_", "OLDPWD", "SHLVL"
    }  # fmt: skip


def test_settings_of_a_repository_do_not_outrank_ours(tmp_path: Path) -> None:
    git_with().run("init", "--quiet", "--bare", str(tmp_path))
    with (tmp_path / "config").open("a") as config:
        config.write("[core]\nfsmonitor = evil\nhooksPath = /evil\n[submodule]\nrecurse = true\n[gc]\nauto = 1\n")
        config.write("[http]\nfollowRedirects = true\n[transfer]\nbundleURI = true\n[maintenance]\nauto = true\n")
    wanted = {"core.fsmonitor": "false", "core.hookspath": "/dev/null", "submodule.recurse": "false", "gc.auto": "0",
              "http.followredirects": "false", "transfer.bundleuri": "false", "maintenance.auto": "false"}  # fmt: skip
    told = {key: git_with().run("config", "--get", key, git_dir=tmp_path).decode().strip() for key in wanted}
    assert told == wanted


@pytest.mark.parametrize(
    "url", ["ext::touch% {}", "ssh://-oProxyCommand=touch% {}/x", "file:///{}", "git://127.0.0.1/x"]
)
def test_no_transport_is_used_but_the_one_of_the_remote(tmp_path: Path, url: str) -> None:
    remote = Remote("https://127.0.0.1/x", None, ("127.0.0.1",))
    for given in (remote, None):
        with pytest.raises(CommandFailed) as caught:
            git_with().run("ls-remote", url.format(tmp_path / "trace"), remote=given)
        assert "not allowed" in caught.value.stderr
    assert not (tmp_path / "trace").exists()


def test_secrets_are_masked_in_what_git_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = git_with()
    credentials = Credentials("user", "hunter22")
    remote = Remote("https://127.0.0.1/x", credentials, ("127.0.0.1",))
    program(tmp_path / "bin", monkeypatch, f"echo 'remote: {credentials.header()} hunter22' >&2; exit 1")
    with pytest.raises(CommandFailed) as caught:
        git.run("anything", remote=remote)
    assert caught.value.stderr == "remote: Authorization: Basic *** ***\n"


def test_a_remote_is_checked_again_by_the_worker() -> None:
    settings = Settings.model_validate({})
    for url, code in (
        ("file:///x", "repo_scheme_refused"),
        ("https://10.0.0.1/x", "repo_host_private"),
        ("ext::sh", "repo_scheme_refused"),
        ("--upload-pack=x", "repo_url_invalid"),
    ):
        with pytest.raises(GitError) as caught:
            Remote.at(url, None, settings)
        assert caught.value.code == code


@pytest.mark.parametrize(("said", "right"), [("git version 2.36.9", False), ("git version 2.37.0", True), ("", False)])
def test_a_git_that_cannot_pin_addresses_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, right: bool
) -> None:
    program(tmp_path / "bin", monkeypatch, f"echo {said}")
    command.require_git.cache_clear()
    try:
        if right:
            command.require_git()
        else:
            with pytest.raises(ConfigurationError):
                command.require_git()
    finally:
        command.require_git.cache_clear()


def test_it_works_side_by_side_in_greenlets() -> None:
    """Under gevent a worker runs many of these in one thread: none may block the others."""
    script = """
from gevent import monkey; monkey.patch_all()
import gevent, time
from infra.settings import Settings
from workers.git.command import Git
from workers.git.errors import CommandFailed
git = Git(Settings.model_validate({"git_timeout": 1}))
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic()); gevent.sleep(0.01)
ticking = gevent.spawn(tick)
def slow():
    try:
        git.run("-c", "alias.slow=!sleep 30", "slow")
    except CommandFailed as failure:
        return failure.reason
jobs = [gevent.spawn(slow) for _ in range(5)]
gevent.joinall(jobs, timeout=20)
gaps = [b - a for a, b in zip(ticks, ticks[1:])]
print([job.value for job in jobs] == ["timeout"] * 5, git.run("version").startswith(b"git"), max(gaps) < 0.9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


def test_commands_of_several_threads_do_not_mix() -> None:
    git = git_with()
    contents = [f"content {number}".encode() for number in range(16)]
    with ThreadPoolExecutor(8) as threads:
        told = threads.map(lambda content: git.run("hash-object", "--stdin", stdin=content), contents)
    expected = [hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() for content in contents]
    assert [answer.decode().strip() for answer in told] == expected
