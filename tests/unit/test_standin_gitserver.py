"""The git host against the real git client: what a worker's clone and push will meet."""

import gzip
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.standin.git_command import isolated_git_environment, run_git
from tests.standin.gitserver import GitServer

AUTH = ("worker", "s3cret/ü:x")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree with one commit."""
    directory = tmp_path / "tree"
    run_git("init", "--quiet", "--initial-branch=trunk", str(directory))
    (directory / "readme.txt").write_text("one\n")
    commit(directory, "One")
    return directory


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "host") as server:
        yield server


def commit(directory: Path, message: str) -> str:
    run_git("add", "--all", cwd=directory)
    run_git("commit", "--quiet", f"--message={message}", cwd=directory)
    return run_git("rev-parse", "HEAD", cwd=directory).strip()


def with_password(url: str, user: str, secret: str) -> str:
    return str(httpx.URL(url, username=user, password=secret))


def test_a_clone_has_the_history_and_a_push_arrives(host: GitServer, tree: Path, tmp_path: Path) -> None:
    first = run_git("rev-parse", "HEAD", cwd=tree).strip()
    host.create("team/project", from_dir=tree)
    assert host.refs("team/project") == {"refs/heads/main": first}
    run_git("clone", "--quiet", host.url("team/project"), str(tmp_path / "clone"))
    (tmp_path / "clone" / "readme.txt").write_text("two\n")
    second = commit(tmp_path / "clone", "Two")
    run_git("push", "--quiet", "origin", "HEAD:refs/heads/farhand/1", cwd=tmp_path / "clone")
    assert host.refs("team/project") == {"refs/heads/farhand/1": second, "refs/heads/main": first}
    requests = host.wait_until(lambda all_: all(request.finished_at for request in all_))
    assert {request.repository for request in requests} == {"team/project"}
    assert [request.method for request in requests if request.is_push] == ["GET", "POST"]


def test_a_repository_is_made_from_plain_files_or_empty(host: GitServer, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "sub" / "a.txt").write_text("a")
    host.create("plain", from_dir=files, default_branch="trunk")
    assert host.git("plain", "ls-tree", "-r", "--name-only", "trunk").split() == ["sub/a.txt"]
    assert not (files / ".git").exists()
    host.create("empty")
    assert run_git("ls-remote", host.url("empty")) == ""


def test_the_protocol_is_version_2_where_the_client_asks(host: GitServer, tree: Path) -> None:
    host.create("project", from_dir=tree)
    url = f"{host.url('project')}/info/refs?service=git-upload-pack"
    assert b"version 2" in httpx.get(url, headers={"Git-Protocol": "version=2"}).content
    assert b"version 2" not in httpx.get(url).content
    run_git("-c", "protocol.version=2", "ls-remote", host.url("project"))
    assert any(request.headers.get("git-protocol") == "version=2" for request in host.requests)


def test_passwords_are_asked_for_and_never_part_of_the_url(host: GitServer, tree: Path, tmp_path: Path) -> None:
    host.create("project", from_dir=tree)
    host.set_auth("project", AUTH)
    url = host.url("project")
    assert "@" not in url
    refusal = httpx.get(f"{url}/info/refs?service=git-upload-pack")
    assert refusal.status_code == 401
    assert refusal.headers["www-authenticate"].startswith("Basic ")
    with pytest.raises(RuntimeError, match=r"could not read Username|terminal prompts disabled"):
        run_git("ls-remote", url)
    with pytest.raises(RuntimeError, match="Authentication failed"):
        run_git("ls-remote", with_password(url, AUTH[0], "wrong"))
    run_git("clone", "--quiet", with_password(url, *AUTH), str(tmp_path / "clone"))
    (tmp_path / "clone" / "new").write_text("new")
    pushed = commit(tmp_path / "clone", "New")
    run_git("push", "--quiet", "origin", "HEAD:work", cwd=tmp_path / "clone")
    assert host.refs("project")["refs/heads/work"] == pushed


def test_one_password_for_all_but_public_repositories(tmp_path: Path, tree: Path) -> None:
    with GitServer(tmp_path / "host", auth=AUTH) as host:
        host.create("secret", from_dir=tree)
        host.create("public", from_dir=tree)
        host.set_auth("public", None)
        run_git("ls-remote", host.url("public"))
        run_git("ls-remote", with_password(host.url("secret"), *AUTH))
        with pytest.raises(RuntimeError, match="terminal prompts disabled"):
            run_git("ls-remote", host.url("nowhere"))


def test_what_does_not_exist_is_not_found(host: GitServer) -> None:
    with pytest.raises(RuntimeError, match="not found"):
        run_git("ls-remote", host.url("nowhere"))


def test_a_path_does_not_leave_the_root(host: GitServer, tree: Path) -> None:
    host.create("project", from_dir=tree)
    (host.root.parent / "outside.git").mkdir()
    run_git("init", "--quiet", "--bare", str(host.root.parent / "outside.git"))
    connection = http.client.HTTPConnection("127.0.0.1", host.server_address[1])
    for path in ("/../outside.git/HEAD", "/%2e%2e/outside.git/HEAD"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status >= 400
        answer.read()
    connection.close()


def test_a_protected_branch_refuses_and_others_do_not(host: GitServer, tree: Path) -> None:
    host.create("project", from_dir=tree)
    host.protect("project", "refs/heads/main")
    host.protect("project", "refs/heads/release/*")
    before = host.refs("project")
    (tree / "new").write_text("new")
    pushed = commit(tree, "New")
    for branch in ("main", "release/1"):
        with pytest.raises(RuntimeError, match=rf"refs/heads/{branch} is a protected branch(.|\n)*hook declined"):
            run_git("push", host.url("project"), f"HEAD:refs/heads/{branch}", cwd=tree)
    assert host.refs("project") == before
    run_git("push", "--quiet", host.url("project"), "HEAD:refs/heads/feature", cwd=tree)
    assert host.refs("project")["refs/heads/feature"] == pushed


def test_a_push_that_is_no_fast_forward_is_rejected(host: GitServer, tree: Path) -> None:
    host.create("project", from_dir=tree)
    run_git("commit", "--quiet", "--amend", "--message=Other", cwd=tree)
    with pytest.raises(RuntimeError, match=r"non-fast-forward|fetch first"):
        run_git("push", host.url("project"), "HEAD:main", cwd=tree)


@pytest.mark.parametrize(("status", "words"), [(503, "503"), (403, "403"), (401, "terminal prompts disabled")])
def test_pushes_can_be_made_to_fail(host: GitServer, tree: Path, status: int, words: str) -> None:
    host.create("project", from_dir=tree)
    host.fail_pushes(status)
    with pytest.raises(RuntimeError, match=words):
        run_git("push", host.url("project"), "HEAD:work", cwd=tree)
    assert "refs/heads/main" in run_git("ls-remote", host.url("project"))
    host.fail_pushes(None)
    run_git("push", "--quiet", host.url("project"), "HEAD:work", cwd=tree)


def test_a_dropped_answer_leaves_the_push_in_place(host: GitServer, tree: Path) -> None:
    host.create("project", from_dir=tree)
    host.drop_push_answers()
    (tree / "new").write_text("new")
    pushed = commit(tree, "New")
    with pytest.raises(RuntimeError, match=r"RPC failed|unexpected disconnect|hung up"):
        run_git("push", host.url("project"), "HEAD:work", cwd=tree)
    assert host.refs("project")["refs/heads/work"] == pushed
    assert "[up to date]" in run_git("push", "--porcelain", host.url("project"), "HEAD:work", cwd=tree)


def test_a_hanging_host_answers_nothing_until_it_resumes(host: GitServer, tree: Path) -> None:
    host.create("project", from_dir=tree)
    host.hang()
    printed: list[str] = []
    asking = threading.Thread(target=lambda: printed.append(run_git("ls-remote", host.url("project"))))
    asking.start()
    host.wait_until(lambda requests: len(requests) == 1)
    assert not printed
    host.resume()
    asking.join(10)
    assert "refs/heads/main" in printed[0]


def test_a_hang_ends_when_the_client_leaves_or_the_server_stops(tmp_path: Path, tree: Path) -> None:
    with GitServer(tmp_path / "host") as host:
        host.create("project", from_dir=tree)
        host.hang()
        first, second = (
            subprocess.Popen(
                ["git", "ls-remote", host.url("project")],
                stderr=subprocess.DEVNULL,
                env=isolated_git_environment(),
                start_new_session=True,
            )
            for _ in range(2)
        )
        host.wait_until(lambda requests: len(requests) == 2)
        os.killpg(first.pid, signal.SIGKILL)
        assert first.wait(10) != 0
        host.wait_until(lambda requests: any(request.finished_at for request in requests))
    assert second.wait(10) != 0


def test_a_large_push_comes_in_chunks_and_a_large_clone_goes_out(host: GitServer, tree: Path, tmp_path: Path) -> None:
    host.create("project", from_dir=tree)
    (tree / "noise").write_bytes(os.urandom(20_000_000))
    pushed = commit(tree, "Noise")
    run_git("push", "--quiet", host.url("project"), "HEAD:main", cwd=tree)
    (post,) = (request for request in host.requests if request.method == "POST" and request.body_bytes > 1000)
    assert post.headers["transfer-encoding"] == "chunked"
    assert post.body_bytes > 20_000_000
    run_git("clone", "--quiet", host.url("project"), str(tmp_path / "clone"))
    assert run_git("rev-parse", "HEAD", cwd=tmp_path / "clone").strip() == pushed


def test_a_gzipped_request_is_understood(host: GitServer, tree: Path, tmp_path: Path) -> None:
    """git compresses what it wants, in the older protocol, once that is more than a kilobyte."""
    for number in range(40):
        run_git("commit", "--quiet", "--allow-empty", f"--message={number}", cwd=tree)
        run_git("branch", f"branch-{number}", cwd=tree)
    host.create("project", from_dir=tree)
    run_git("push", "--quiet", "--all", host.url("project"), cwd=tree)
    run_git("-c", "protocol.version=0", "clone", "--quiet", host.url("project"), str(tmp_path / "clone"))
    assert any(request.headers.get("content-encoding") == "gzip" for request in host.requests)
    assert run_git("rev-parse", "HEAD", cwd=tmp_path / "clone") == run_git("rev-parse", "HEAD", cwd=tree)
    body = gzip.compress(b"0014command=ls-refs\n0000")
    headers = {
        "Content-Type": "application/x-git-upload-pack-request",
        "Content-Encoding": "gzip",
        "Git-Protocol": "version=2",
    }
    answer = httpx.post(f"{host.url('project')}/git-upload-pack", content=body, headers=headers)
    assert b"refs/heads/main" in answer.content


def test_it_runs_by_hand(tmp_path: Path, tree: Path) -> None:
    arguments = ["--root", str(tmp_path / "host"), "--create", f"project={tree}", "--auth", "worker:pass"]
    command = [sys.executable, "-m", "tests.standin.gitserver", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"ready http://127\.0\.0\.1:\d+\n", process.stdout.readline())
        assert "refs/heads/main" in run_git("ls-remote", with_password(url, "worker", "pass"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
