"""Hostile repositories on the whole way of a task: fetched, checked out, changed, committed and pushed by a deployment.

Everything that could start a program leaves a trace on the host if it does; every task ends, in bounded time, either
completed or with a code and a hint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.cli.data_dir import remove_tree
from infra.client.rest import Client
from tests.acceptance.conftest import CREDENTIALS, environment_for
from tests.deployment import Deployment, events_of, watch
from tests.integration.git.handmade import Raw, blob, pack, tree
from tests.integration.git.source import Source
from tests.services import Postgres, make_settings
from tests.standin.gitserver import GitServer
from tests.standin.model import ModelStandIn

pytestmark = [pytest.mark.docker, pytest.mark.slow]

USAGE = {"input_tokens": 100, "output_tokens": 20}
DONE = {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn", "usage": USAGE}
LIMIT = 64 * 2**20


def call(tool: str, **args: Any) -> dict[str, Any]:
    return {"content": [{"type": "tool_use", "name": tool, "input": args}], "stop_reason": "tool_use", "usage": USAGE}


def command(text: str) -> dict[str, Any]:
    return call("run_command", command=text)


WRITE = call("write_file", path="farhand-new.txt", content="new\n")


@dataclass
class Stage:
    """A deployment, its git host, and a directory of the host where whatever is executed there leaves a trace."""

    deployment: Deployment
    client: Client
    host: GitServer
    model: ModelStandIn
    scratch: Path
    traces: Path
    run_dir: Path

    def source(self, name: str) -> Source:
        made = Source(self.scratch / name)
        made.write("README.md", "a sample\n")
        return made

    def run(self, name: str, trajectory: str = "writes") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The ended task on a repository of the host, and its events."""
        url = self.host.url(name)
        self.client.create_project(repo_url=url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
        task = self.client.submit(repo_url=url, prompt=f"do it [trajectory:{trajectory}]")
        events = events_of(watch(self.client, task["id"]))
        return self.client.task(task["id"]), events

    def take(self, name: str, *objects: Raw) -> None:
        """A repository whose only commit has the last of these objects as its tree, made without any check of git's."""
        path = self.host.create(name)
        target = path / "objects" / "pack" / "pack-hostile.pack"
        target.write_bytes(pack(*objects))
        self.host.git(name, "index-pack", str(target))
        sha = self.host.git(name, "commit-tree", objects[-1].id, "-m", "Hostile").strip()
        self.host.git(name, "update-ref", "refs/heads/main", sha)

    def trace(self) -> str:
        return f"touch {self.traces}/$$; true"


@pytest.fixture(scope="module")
def stage(postgres: Postgres, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch = tmp_path_factory.mktemp("hostile")
    traces = scratch / "traces"
    traces.mkdir()
    traces.chmod(0o777)
    run_dir = Path(tempfile.mkdtemp(prefix="fh-"))
    settings = make_settings(database_url=postgres.create_database(), redis_url=redis_url, run_dir=run_dir)
    plant = f"echo 'touch {traces}/agent' > .git/x; chmod +x .git/x; "
    hooks = (
        "for h in pre-commit post-commit pre-push post-checkout reference-transaction; do cp .git/x .git/hooks/$h; done"
    )
    options = "core.fsmonitor core.hooksPath core.sshCommand core.pager diff.external filter.a.clean filter.a.smudge"
    sabotage = (
        plant + f"mkdir -p .git/hooks; {hooks}; for o in {options}; do git config $o $PWD/.git/x; done; "
        "echo '* filter=a diff=a merge=a' > .gitattributes; git config include.path /etc/passwd"
    )
    swap = "rm -rf .git && ln -s /etc .git; ln -s /etc etc; ln -s / root; echo x > y; ls -la"
    trajectories: dict[str, list[Any]] = {
        "writes": [WRITE, DONE],
        "sabotages": [command(sabotage), WRITE, command("ls -la .git/hooks"), DONE],
        "swaps": [command(swap), WRITE, command("cat farhand-new.txt"), DONE],
    }
    with GitServer(scratch / "git", auth=CREDENTIALS) as host, ModelStandIn(trajectories) as model:
        environment = {
            **environment_for(model, host),
            "FARHAND_SANDBOX_DISK_BYTES": str(LIMIT),
            "FARHAND_SANDBOX_MEMORY_BYTES": str(512 * 2**20),
        }
        with Deployment(settings, scratch / "data", **environment) as deployment, deployment.client() as client:
            yield Stage(deployment, client, host, model, scratch, traces, run_dir)
    remove_tree(run_dir)


def hooks_and_settings_in_the_tree(repo: Source, trace: str) -> None:
    """What git would obey in its own directory, at the top of the tree, and settings of a home directory."""
    settings = (
        f"[core]\n\tfsmonitor = {trace}\n\tsshCommand = {trace}\n\thooksPath = hooks\n[include]\n\tpath = ../config\n"
    )
    for name in ("config", ".gitconfig", "gitconfig", ".config/git/config"):
        repo.write(name, settings)
    for name in ("hooks/pre-push", "hooks/post-checkout", "hooks/reference-transaction", ".husky/pre-push"):
        repo.write(name, f"#!/bin/sh\n{trace}\n")
        (repo.path / name).chmod(0o755)
    repo.write("HEAD", "ref: refs/heads/main\n")
    repo.write("objects/info/alternates", "/etc\n")
    repo.write("refs/heads/main", "0" * 40 + "\n")


def drivers_by_attributes(repo: Source, trace: str) -> None:
    """A repository may name drivers; which programs those are is said by a configuration that it does not have."""
    repo.write(
        ".gitattributes",
        "* filter=evil diff=evil merge=evil text eol=crlf ident export-subst\n*.x working-tree-encoding=UTF-7\n",
    )
    repo.write(
        ".gitconfig",
        f'[filter "evil"]\n\tclean = {trace}\n\tsmudge = {trace}\n\trequired\n[diff "evil"]\n\ttextconv = {trace}\n',
    )
    repo.write("info/attributes", "* filter=evil\n")
    repo.write("version.txt", "$Format:%H$ $Id$\n")


def submodules_of_every_kind(repo: Source, trace: str) -> None:
    urls = (f"ext::sh -c {trace}", "http://127.0.0.1:1/x", "file:///etc", "../other.git", "https://192.0.2.1/x")
    parts = [f'[submodule "s{n}"]\n\tpath = s{n}\n\turl = "{url}"\n\tupdate = checkout\n' for n, url in enumerate(urls)]
    repo.write(".gitmodules", "".join(parts))
    for n in range(len(urls)):
        repo.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},s{n}")


def files_in_lfs(repo: Source, trace: str) -> None:
    repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    repo.write(".lfsconfig", '[lfs]\n\turl = http://127.0.0.1:1/lfs\n[lfs "customtransfer.x"]\n\tpath = sh\n')
    oid = f"oid sha256:{'4' * 64}"
    repo.write("big.bin", f"version https://git-lfs.github.com/spec/v1\n{oid}\nsize 12345\n")


def symlinks_out_of_the_tree(repo: Source, trace: str) -> None:
    for name, target in {
        "passwd": "/etc/passwd",
        "etc": "/etc",
        "up": "../../../../../../etc/passwd",
        "AGENTS.md": "/etc/passwd",
        "CLAUDE.md": "../../../etc/passwd",
        ".gitignore": "/etc/passwd",
        "link": "/farhand/link/host.sock",
        "self": "self",
    }.items():
        (repo.path / name).symlink_to(target)


def names_that_are_options_or_worse(repo: Source, trace: str) -> None:
    for name in (
        "--upload-pack=touch x", "-rf", "--", "-", "new\nline", "tab\there", "bell\a", "\x1b[31mred", "quote\"'`$(x)",
        "a" * 255, " lead", "trail ", "*", "?", ":(exclude)x", "HEAD~1", "CON", "\u202egnp.exe", "|pipe", "&",
    ):  # fmt: skip
        repo.write(name, "x\n")
    (repo.path / "sub").mkdir()
    (repo.path / "sub" / os.fsdecode(b"\xff\xfe invalid")).write_bytes(b"x\n")


def instructions_for_the_agent_that_are_no_text(repo: Source, trace: str) -> None:
    repo.write("AGENTS.md", bytes(range(256)) * 4000)
    repo.write("CLAUDE.md/file", "a directory\n")


HARMLESS_HERE = (
    hooks_and_settings_in_the_tree,
    drivers_by_attributes,
    submodules_of_every_kind,
    files_in_lfs,
    symlinks_out_of_the_tree,
    names_that_are_options_or_worse,
    instructions_for_the_agent_that_are_no_text,
)
Make = Callable[[Source, str], None]
TOLD = {submodules_of_every_kind: "submodules_not_fetched", files_in_lfs: "lfs_not_fetched"}


@pytest.mark.parametrize("make", HARMLESS_HERE, ids=lambda make: make.__name__)
def test_a_hostile_repository_is_worked_on_and_starts_and_reads_nothing_outside(stage: Stage, make: Make) -> None:
    name = make.__name__
    repo = stage.source(name)
    make(repo, stage.trace())
    repo.git("add", "--all")
    if make is submodules_of_every_kind:  # `add` has just taken the links out again: they have no directory
        make(repo, stage.trace())
        repo.git("add", ".gitmodules", "README.md")
    repo.git("commit", "--quiet", "--message=Hostile")
    stage.host.create(name, from_dir=repo.path)
    asked = len(stage.host.requests)
    task, events = stage.run(name)

    assert task["status"] == "completed", (task["error"], stage.deployment.logs())
    changed = stage.host.git(name, "diff", "--name-only", "-z", "main", task["branch"]).split("\0")
    assert [path for path in changed if path] == ["farhand-new.txt"]
    assert sorted(stage.traces.iterdir()) == []
    assert {request.repository for request in stage.host.requests[asked:]} == {name}
    said = str([request.body for request in stage.model.requests[-2:]]) + str(events) + stage.client.diff(task["id"])
    assert "root:x:" not in said
    told = {event["data"]["code"] for event in events if event["type"] == "error"}
    assert told == ({TOLD[make]} if make in TOLD else set())


@pytest.mark.parametrize("trajectory", ["sabotages", "swaps"])
def test_what_commands_do_to_the_repository_of_the_workspace_reaches_no_other(stage: Stage, trajectory: str) -> None:
    repo = stage.source(trajectory)
    repo.commit("First")
    stage.host.create(trajectory, from_dir=repo.path)
    task, events = stage.run(trajectory, trajectory)
    assert task["status"] == "completed", (task["error"], stage.deployment.logs())
    assert "hooks" in str(events) or "root -> /" in str(events), "the attack took place"
    changed = stage.host.git(trajectory, "diff", "--name-only", "main", task["branch"]).split()
    assert "farhand-new.txt" in changed
    assert not [path for path in changed if path.startswith(".git/")]
    assert set(stage.host.refs(trajectory)) == {"refs/heads/main", f"refs/heads/{task['branch']}"}
    assert sorted(stage.traces.iterdir()) == []


def disguised(name: str) -> tuple[Raw, ...]:
    config = blob(b"[core]\n\tfsmonitor = touch /tmp/x\n")
    inner = tree(("100644", "config", config.id))
    return config, inner, tree(("40000", name, inner.id))


def symlink_as_git_directory() -> tuple[Raw, ...]:
    target = blob(b"/etc")
    return target, tree(("120000", ".git", target.id))


def a_huge_file() -> tuple[Raw, ...]:
    """More than a sandbox holds, out of some hundred kilobytes. Not zeros: of those git makes holes."""
    letters = blob(b"x" * (LIMIT + 2**24))
    return letters, tree(("100644", "letters", letters.id))


def a_million_files() -> tuple[Raw, ...]:
    file = blob(b"")
    levels = [tree(*(("100644", f"f{n}", file.id) for n in range(10)))]
    for _ in range(5):
        levels.append(tree(*(("40000", f"d{n}", levels[-1].id) for n in range(10))))
    return file, *levels


TOO_MUCH: dict[str, tuple[Callable[[], tuple[Raw, ...]], str]] = {
    "a git directory in the tree": (lambda: disguised(".git"), "repo_malformed"),
    "one in capitals": (lambda: disguised(".GIT"), "repo_malformed"),
    "one by its short name": (lambda: disguised("git~1"), "repo_malformed"),
    "one with what is not seen": (lambda: disguised(".g\u200cit"), "repo_malformed"),
    "a way up": (lambda: disguised(".."), "repo_malformed"),
    "a symlink as its git directory": (symlink_as_git_directory, "repo_malformed"),
    "a huge file": (a_huge_file, "checkout_failed"),
    "a million files": (a_million_files, "checkout_failed"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_repository_that_cannot_be_worked_on_ends_with_a_code_and_a_hint(stage: Stage, what: str) -> None:
    make, code = TOO_MUCH[what]
    name = what.replace(" ", "-")
    stage.take(name, *make())
    task, events = stage.run(name)
    assert task["status"] == "failed"
    assert task["error"]["code"] == code, (task["error"], stage.deployment.logs())
    assert task["error"]["hint"]
    assert events[-1]["type"] == "failed"
    assert sorted(stage.traces.iterdir()) == []
    kept = sum(path.lstat().st_size for path in stage.run_dir.rglob("*") if path.is_file())
    assert kept < LIMIT, "the worker's disk holds what was sent, not what it stands for"


def test_the_git_password_stays_where_it_belongs(stage: Stage) -> None:
    """After all of these tasks: in no event, log, file of the worker, command line or environment that is left."""
    password = CREDENTIALS[1].encode()
    assert CREDENTIALS[1] not in stage.deployment.logs()
    files = [path for path in stage.run_dir.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if password in path.read_bytes()] == []
    for request in stage.model.requests:
        assert CREDENTIALS[1] not in str(request.body)
    (worker,) = stage.deployment.worker_pids()[:1]
    assert password not in Path(f"/proc/{worker}/cmdline").read_bytes()
    assert password not in Path(f"/proc/{worker}/environ").read_bytes()
