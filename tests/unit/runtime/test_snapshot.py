"""Snapshots: packs that a strict git takes, trees that equal the workspace, and what is left out."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.unit.runtime.conftest import IS_ROOT, Sandbox, git
from tests.unit.runtime.linkserver import LinkServer, says, tool_use


def command(line: str, **args: Any) -> dict[str, Any]:
    return tool_use("run_command", command=line, **args)


def tree_of_workspace(sandbox: Sandbox) -> str:
    """As a fresh git sees it, with an index of its own."""
    repository = sandbox.origin / ".git"
    where = {
        "GIT_DIR": str(repository),
        "GIT_WORK_TREE": str(sandbox.repo),
        "GIT_INDEX_FILE": str(repository / "index-of-test"),
    }
    git(sandbox.repo, "add", "-A", environment=where)
    return git(sandbox.repo, "write-tree", environment=where)


def take_packs(sandbox: Sandbox, server: LinkServer) -> str:
    """Each pack on top of those before; returns the last tree."""
    parent = git(sandbox.origin, "rev-parse", f"{sandbox.job['workspace']['head']}^{{tree}}")
    for result, pack in zip(server.results, server.packs, strict=True):
        if result["tree"] is None:
            assert not pack
            continue
        assert result["parent"] == parent
        if pack:
            sandbox.receive(pack)
        else:
            assert result["tree"] == parent
        parent = result["tree"]
        git(sandbox.origin, "fsck", "--strict", parent)
    return parent


def test_trees_follow_the_workspace_through_every_kind_of_change(sandbox: Sandbox) -> None:
    for name in ("keep", "delete", "sub/file", "becomes_dir", "dir/one", "dir/two", "linked/file"):
        (sandbox.origin / name).parent.mkdir(exist_ok=True)
        (sandbox.origin / name).write_text(f"{name}\n" * 50)
    steps = [
        "echo changed >> keep; rm delete; echo new > new",
        "chmod +x keep; ln -s keep link; ln -s /etc/passwd away",
        "rm becomes_dir; mkdir -p becomes_dir/deep; echo x > becomes_dir/deep/x",
        "rm -r dir; echo file > dir",
        "mv linked moved; ln -s moved linked",
        "printf 'a\\nb' > 'odd name\t\n*?[x] \"ü'; printf '\\377' > $'\\377'; mkdir empty; mkfifo fifo",
        "true",
        "rm -r * ",
        "git checkout -q -f . ; git clean -fdq",
    ]
    server = sandbox.serve(*[says(command(step)) for step in steps], says("Done."))
    trees = []

    def remember(path: str) -> None:
        if path == "/results":
            trees.append(tree_of_workspace(sandbox))

    server.before = remember
    sandbox.start()
    assert sandbox.wait()[0] == 0
    assert [result["tree"] for result in server.results] == trees
    assert len(set(trees)) == len(steps) - 1, "only `true` changes nothing"
    assert take_packs(sandbox, server) == trees[-1]
    assert not any(result["left_out"] for result in server.results)


def test_tools_that_only_read_have_no_tree(sandbox: Sandbox) -> None:
    reads = [tool_use("read_file", path="hello.py"), tool_use("list_files"), tool_use("search_files", pattern="x")]
    server = sandbox.run(says(*reads, tool_use("read_file"), tool_use("nothing")), says("Done."))
    assert {(result["tree"], result["parent"]) for result in server.results} == {(None, None)}
    assert not any(server.packs)


def test_a_change_in_the_second_of_the_checkout_is_seen(sandbox: Sandbox) -> None:
    """Same size, same second: git trusts times less than a naive cache would."""
    (sandbox.origin / "f").write_text("aaaa\n")
    server = sandbox.run(
        says(command("echo bbbb > f")), says(command("echo cccc > f")), says(command("echo aaaa > f")), says("Done.")
    )
    trees = [result["tree"] for result in server.results]
    assert len(set(trees)) == 3
    assert trees[2] == server.results[0]["parent"]


def test_a_small_change_in_a_big_file_is_a_small_pack(sandbox: Sandbox) -> None:
    content = "".join(f"{number * 7919 % 100_003} of many lines\n" for number in range(20_000))
    (sandbox.origin / "big").write_text(content)
    server = sandbox.run(says(command("echo one more >> big")), says("Done."))
    assert len(server.packs[0]) < 1000
    take_packs(sandbox, server)


def test_ignored_files_are_not_kept(sandbox: Sandbox) -> None:
    (sandbox.origin / ".gitignore").write_text("*.o\n")
    server = sandbox.run(says(command("touch a.o b.c")), says("Done."))
    take_packs(sandbox, server)
    assert git(sandbox.origin, "ls-tree", "--name-only", server.results[0]["tree"]).split() == [
        ".gitignore",
        "b.c",
        "hello.py",
    ]


def test_what_is_too_big_is_left_out_and_told_once(sandbox: Sandbox) -> None:
    (sandbox.origin / "tracked").write_text("small\n")
    grow = "head -c 2000000 /dev/zero > big; head -c 2000000 /dev/zero >> tracked; echo x > small"
    server = sandbox.run(
        says(command(grow)), says(command("echo y > other")), says(command("echo fits > big")), says("Done.")
    )
    first, second, third = server.results
    assert sorted(first["left_out"]) == ["big", "tracked"]
    assert "big (2000000 bytes; the limit is 1048576)" in first["output"]
    assert second["left_out"] == []
    assert "not kept" not in second["output"]
    tree = take_packs(sandbox, server)
    assert third["tree"] == tree
    assert git(sandbox.origin, "show", f"{first['tree']}:tracked") == "small"
    assert git(sandbox.origin, "ls-tree", "--name-only", second["tree"]).split() == [
        "hello.py",
        "other",
        "small",
        "tracked",
    ]
    assert git(sandbox.origin, "show", f"{tree}:big") == "fits"


def test_too_much_at_once_leaves_out_whole_directories(sandbox: Sandbox) -> None:
    """A package manager's directory that nobody ignores must not cost the work beside it."""
    fill = "for i in $(seq 40); do head -c 50000 /dev/urandom > modules/$i; done"
    server = sandbox.run(
        says(command(f"mkdir modules; {fill}; echo fixed > hello.py; echo new > new.py")),
        says(command("echo more > modules/more; echo again > new.py")),
        says("Done."),
        pack_bytes=1_000_000,
    )
    tree = take_packs(sandbox, server)
    assert git(sandbox.origin, "ls-tree", "--name-only", tree).split() == ["hello.py", "new.py"]
    assert git(sandbox.origin, "show", f"{tree}:hello.py") == "fixed"
    assert git(sandbox.origin, "show", f"{tree}:new.py") == "again"
    assert "modules/" in server.results[0]["left_out"]
    assert "not kept" in server.outputs[0]
    assert "not kept" not in server.outputs[1]


def test_a_tracked_file_that_cannot_fit_is_told(sandbox: Sandbox) -> None:
    (sandbox.origin / "data").write_text("small\n")
    server = sandbox.run(
        says(command("head -c 900000 /dev/urandom > data; echo x > other")),
        says(command("git checkout -q data")),
        says("Done."),
        pack_bytes=100_000,
    )
    assert server.results[0]["tree"] is None
    assert "could not be recorded (they are more than 100000 bytes)" in server.outputs[0]
    assert server.results[1]["tree"] == take_packs(sandbox, server)
    assert git(sandbox.origin, "show", f"{server.results[1]['tree']}:other") == "x"


@pytest.mark.parametrize("with_commit", [True, False])
def test_a_repository_inside_the_workspace_breaks_nothing(sandbox: Sandbox, with_commit: bool) -> None:
    make = "git init -q inner; echo x > inner/file; echo y > beside"
    commit = "; cd inner; git add -A; git commit -qm x" if with_commit else ""
    server = sandbox.run(
        says(command(make + commit)),
        says(command("echo z >> beside")),
        says(command("rm -rf inner/.git")),
        says("Done."),
    )
    assert server.results[0]["left_out"] == ["inner/"]
    assert "remove its .git to keep its files" in server.outputs[0]
    assert server.results[1]["left_out"] == []
    tree = take_packs(sandbox, server)
    assert git(sandbox.origin, "show", f"{server.results[1]['tree']}:beside") == "y\nz"
    assert git(sandbox.origin, "show", f"{tree}:inner/file") == "x"


def test_submodules_stay_as_they_are(sandbox: Sandbox) -> None:
    for name in ("kept", "gone"):
        git(sandbox.origin, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{name}")
        (sandbox.origin / name).mkdir()
    (sandbox.origin / ".gitmodules").write_text('[submodule "kept"]\n\tpath = kept\n\turl = ../kept\n')
    git(sandbox.origin, "add", ".gitmodules", "hello.py")
    git(sandbox.origin, "commit", "-qm", "submodules")
    fill = "cd kept && git init -q && echo x > x && git add x && git commit -qm x"
    server = sandbox.run(
        says(command("echo y > y; rmdir gone")),
        says(command(fill)),
        says("Done."),
        base=git(sandbox.origin, "rev-parse", "HEAD"),
    )
    assert not server.results[0]["left_out"]
    assert server.results[1]["left_out"] == ["kept"]
    tree = take_packs(sandbox, server)
    listed = git(sandbox.origin, "ls-tree", tree)
    assert f"160000 commit {'1' * 40}\tkept" in listed
    assert "gone" not in listed


@pytest.mark.skipif(not IS_ROOT, reason="without root, the sandbox's user is the one that runs the tests")
def test_an_unreadable_file_is_left_out(sandbox: Sandbox) -> None:
    server = sandbox.run(says(command("echo x > closed; chmod 0 closed; echo y > open")), says("Done."))
    assert server.results[0]["left_out"] == ["closed"]
    assert git(sandbox.origin, "ls-tree", "--name-only", take_packs(sandbox, server)).split() == ["hello.py", "open"]


def test_the_workspace_does_not_configure_the_snapshot(sandbox: Sandbox) -> None:
    """Filters, hooks, fsmonitor and excludes of the agent's own repository change nothing in what is recorded (G7)."""
    (sandbox.origin / ".gitattributes").write_text("*.py filter=evil\n")
    hostile = (
        "git config filter.evil.clean 'echo cleaned'; git config core.fsmonitor 'touch ../ran; false';"
        "git config core.hooksPath ..; git config core.excludesFile ../x; git config core.worktree /etc;"
        "echo '*' > .git/info/exclude; echo new > new.py"
    )
    server = sandbox.run(says(command(hostile)), says(command("rm -rf .git; echo more > more.py")), says("Done."))
    tree = take_packs(sandbox, server)
    assert git(sandbox.origin, "show", f"{tree}:new.py") == "new"
    assert git(sandbox.origin, "show", f"{tree}:more.py") == "more"
    assert not (sandbox.work / "ran").exists()


def test_a_snapshot_repository_that_the_agent_damaged_is_repaired(sandbox: Sandbox) -> None:
    server = sandbox.run(
        says(command("echo garbage > ../state/snap.git/index; touch ../state/snap.git/index.lock; echo a > a")),
        says(command("echo b > b")),
        says("Done."),
    )
    assert "could not be recorded" in server.outputs[0]
    tree = take_packs(sandbox, server)
    assert git(sandbox.origin, "ls-tree", "--name-only", tree).split() == ["a", "b", "hello.py"]


def test_a_helper_killed_in_the_middle_of_a_snapshot_loses_nothing(sandbox: Sandbox) -> None:
    """It has added the files, and dies before it says so: they must not pass for recorded."""
    added = "echo x > x; git --git-dir=../state/snap.git --work-tree=. add -A; kill -9 $PPID"
    server = sandbox.run(says(command(added)), says("Done."))
    tree = take_packs(sandbox, server)
    assert git(sandbox.origin, "show", f"{tree}:x") == "x"


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to mount a small file system")
def test_a_full_disk_is_told_and_can_be_overcome(sandbox: Sandbox) -> None:
    server = sandbox.serve(
        says(command("head -c 1000000000 /dev/zero > ../fill")),
        says(tool_use("write_file", path="hello.py", content="x" * 300_000)),
        says(tool_use("read_file", path="hello.py")),
        says(command("rm ../fill; echo fine > fine")),
        says("Done."),
    )
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(sandbox.work)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sandbox.start()
        assert sandbox.wait()[0] == 0
    finally:
        subprocess.run(["umount", "-l", str(sandbox.work)], check=True)
    assert "No space left" in server.outputs[0]
    assert server.results[1]["is_error"]
    assert "The disk of the sandbox is full: remove what is not needed" in server.outputs[1]
    assert "print('hello')" in server.outputs[2], "the old file was lost"
    assert take_packs(sandbox, server) == server.results[3]["tree"]


def test_a_repository_with_sha256_works_too(sandbox: Sandbox) -> None:
    for path in (sandbox.origin / ".git", sandbox.origin / "hello.py"):
        subprocess.run(["rm", "-r", str(path)], check=True)
    git(sandbox.origin, "init", "-q", "-b", "main", "--object-format=sha256")
    (sandbox.origin / "hello.py").write_text("print('hello')\n")
    server = sandbox.run(says(command("echo x > x; git log --oneline")), says("Done."))
    assert "a commit" in server.outputs[0]
    assert len(take_packs(sandbox, server)) == 64
