"""Attacks by the host of a repository: it redirects, falls silent, or never ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.source import Source
from tests.standin.gitserver import GitServer
from tests.standin.loopback import LoopbackHandler, LoopbackServer
from workers.git.errors import GitError
from workers.git.mirror import MirrorStore
from workers.git.remote import Credentials

PASSWORD = "s3cret-token"
Answer = Callable[[LoopbackHandler], None]


class Handler(LoopbackHandler):
    server: HostileHost

    def do_GET(self) -> None:  # noqa: N802 - the base class looks for these names
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        self.server.answer(self)

    do_POST = do_GET  # noqa: N815


class HostileHost(LoopbackServer):
    """Answers whatever it is asked with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(Handler)
        self.answer = answer
        self.asked: list[tuple[str, str, str]] = []
        self.sent = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], HostileHost]]:
    running: list[HostileHost] = []

    def start(answer: Answer) -> HostileHost:
        running.append(HostileHost(answer))
        running[-1].start()
        return running[-1]

    yield start
    for host in running:
        host.stop()


def store_for(*authorities: str, run_dir: Path, **settings: float) -> MirrorStore:
    given = {"run_dir": run_dir, "allowed_repo_hosts": authorities, "git_timeout": 60.0, "git_idle_timeout": 1.0}
    return MirrorStore(run_dir, Settings.model_validate(given | settings))


def refused(store: MirrorStore, host: HostileHost) -> GitError:
    with pytest.raises(GitError) as caught:
        store.refresh(uuid4(), f"{host.base_url}/repo.git", Credentials("x-access-token", PASSWORD))
    assert caught.value.hint
    assert PASSWORD not in str(caught.value.as_failure())
    return caught.value


def test_redirecting_to_another_host_a_private_one_or_a_file(
    serve: Callable[[Answer], HostileHost], tmp_path: Path
) -> None:
    """Nobody is asked there, and nobody hears the password."""
    elsewhere = serve(lambda handler: handler.reply(404, {}, b""))
    for status in (301, 302, 303, 307, 308):
        for where in (elsewhere.base_url, "http://169.254.169.254", "file:///etc/passwd", "ext::sh -c true", "//x"):
            location = f"{where}/repo.git/info/refs?service=git-upload-pack"
            host = serve(lambda handler: handler.reply(status, {"Location": location}, b""))  # noqa: B023
            error = refused(store_for(host.authority, elsewhere.authority, run_dir=tmp_path), host)
            assert error.code == "repo_redirected", (status, where, error)
            assert len(host.asked) == 1
    assert elsewhere.asked == []


def silent(handler: LoopbackHandler) -> None:
    handler.hold()


def silent_after_its_first_words(handler: LoopbackHandler) -> None:
    handler.start_chunked(200, {"Content-Type": "application/x-git-upload-pack-advertisement"})
    handler.write_chunk(b"001e# service=git-upload-pack\n0000000eversion 2\n")
    handler.wfile.flush()
    handler.hold()


@pytest.mark.parametrize("answer", [silent, silent_after_its_first_words])
def test_a_host_that_falls_silent(serve: Callable[[Answer], HostileHost], answer: Answer, tmp_path: Path) -> None:
    host = serve(answer)
    error = refused(store_for(host.authority, run_dir=tmp_path), host)
    assert error.code == "repo_unreachable"
    assert "too slow" in error.message


def branches_without_end(handler: LoopbackHandler) -> None:
    assert isinstance(handler.server, HostileHost)
    line = b"003f" + b"1" * 40 + b" refs/heads/branch-1\n"
    line = b"%04x" % len(line) + line[4:]
    handler.start_chunked(200, {"Content-Type": "application/x-git-upload-pack-advertisement"})
    handler.write_chunk(b"001e# service=git-upload-pack\n0000")
    piece = line * 10_000
    while not handler.server.stopping.is_set():
        handler.write_chunk(piece)
        handler.server.sent += len(piece)


def test_a_host_that_offers_branches_without_end(serve: Callable[[Answer], HostileHost], tmp_path: Path) -> None:
    """Git holds them all before it says one: what it may hold is bounded, and so is what it may say."""
    host = serve(branches_without_end)
    assert refused(store_for(host.authority, run_dir=tmp_path, git_idle_timeout=60.0), host).code == "repo_too_large"
    assert host.sent < 2**29, "bytes, of which git keeps a little more than it gets"


def headers_without_end(handler: LoopbackHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.stopping.is_set():
        handler.wfile.write(b"X-Filler: " + b"x" * 60_000 + b"\r\n")


def nonsense(handler: LoopbackHandler) -> None:
    handler.reply(200, {"Content-Type": "application/x-git-upload-pack-advertisement"}, os.urandom(5000))


@pytest.mark.parametrize("answer", [headers_without_end, nonsense])
def test_a_host_that_speaks_nonsense(serve: Callable[[Answer], HostileHost], answer: Answer, tmp_path: Path) -> None:
    host = serve(answer)
    assert refused(store_for(host.authority, run_dir=tmp_path), host).code in (
        "repo_unreachable",
        "git_failed",
        "repo_malformed",
        "repo_not_found",
    )


def test_git_does_not_outlive_a_worker_that_was_killed_for_long(tmp_path: Path) -> None:
    """Nobody waits for it any more, and its remote is silent: it ends by itself."""
    source = Source(tmp_path / "source")
    source.write("file", "x\n")
    source.commit("First")
    with GitServer(tmp_path / "host") as host:
        host.create("repo", from_dir=source.path)
        host.hang()
        worker = textwrap.dedent(f"""
            from pathlib import Path
            from uuid import uuid4
            from tests.security.test_hostile_hosts import store_for
            store = store_for("127.0.0.1:{host.server_address[1]}", run_dir=Path({str(tmp_path)!r}))
            store.refresh(uuid4(), {host.url("repo")!r}, None)
        """)
        process = subprocess.Popen([sys.executable, "-c", worker])
        host.wait_until(lambda requests: len(requests) >= 1, timeout=60)
        asking = [pid for pid in children_of(process.pid) if "ls-remote" in command_of(pid)]
        assert asking
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert any(command_of(pid) for pid in asking), "it was not killed with its worker"
        deadline = time.monotonic() + 60
        while any(command_of(pid) for pid in asking):
            assert time.monotonic() < deadline, "git waits for ever"
            os.sched_yield()


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [descendant for child in found for descendant in (child, *children_of(child))]


def command_of(pid: int) -> str:
    """Empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
