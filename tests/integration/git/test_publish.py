"""The push: to the task's branch only, compare-and-set, and never a success that was none."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.integration.git.source import Source
from tests.standin.gitserver import GitServer
from workers.git.errors import GitError
from workers.git.mirror import Mirror, MirrorStore
from workers.git.publish import publish, remote_head
from workers.git.remote import Credentials
from workers.git.repo import TaskRepo

BRANCH = "farhand/01890a5d-ac96-774b-bcce-b302099a8057"
REF = f"refs/heads/{BRANCH}"


class Task:
    """A task with two commits to push, one on top of the other."""

    def __init__(self, repo: TaskRepo, host: GitServer, credentials: Credentials, commits: tuple[str, str]) -> None:
        self.repo = repo
        self.host = host
        self.credentials: Credentials | None = credentials
        self.first, self.second = commits

    def push(self, sha: str, expected: str | None = None, branch: str = BRANCH) -> None:
        publish(self.repo, self.host.url("repo"), self.credentials, branch=branch, sha=sha, expected=expected)

    def failing(self, sha: str, expected: str | None = None, branch: str = BRANCH) -> GitError:
        with pytest.raises(GitError) as caught:
            self.push(sha, expected, branch)
        assert caught.value.message
        assert caught.value.hint
        return caught.value

    def remote(self) -> str | None:
        return self.host.refs("repo").get(REF)


@pytest.fixture
def task(mirror: Mirror, host: GitServer, source: Source, credentials: Credentials, tmp_path: Path) -> Task:
    _, base = mirror.resolve(None)
    source.write("greeting.txt", "hello\nworld\n")
    change = source.tree_pack()
    repo = TaskRepo.build(tmp_path / "task.git", mirror, [change])
    when = datetime(2024, 5, 1, tzinfo=UTC)
    first = repo.commit(change.tree, base, "First", when)
    return Task(repo, host, credentials, (first, repo.commit(change.tree, first, "Second", when)))


def test_a_branch_is_made_and_moved_and_nothing_else_is_touched(task: Task, settings: Settings) -> None:
    before = task.host.refs("repo")
    url = task.host.url("repo")
    assert remote_head(url, task.credentials, BRANCH, settings) is None
    task.push(task.first)
    assert remote_head(url, task.credentials, BRANCH, settings) == task.first
    task.push(task.second, expected=task.first)
    assert task.host.refs("repo") == before | {REF: task.second}


def test_a_repeated_push_succeeds_whatever_it_expected(task: Task) -> None:
    task.push(task.first)
    task.push(task.first)
    task.push(task.first, expected=task.second)
    assert task.remote() == task.first


def test_a_branch_that_someone_else_made_moved_or_deleted_is_left_alone(task: Task, source: Source) -> None:
    foreign = source.commit("Someone else's")
    source.push(f"{foreign}:{REF}")
    assert task.failing(task.first).code == "push_non_fast_forward"
    assert task.failing(task.second, expected=task.first).code == "push_non_fast_forward"
    assert task.remote() == foreign
    source.push(f":{REF}")
    assert task.failing(task.second, expected=task.first).code == "push_non_fast_forward"
    assert task.remote() is None


def test_a_push_whose_answer_was_lost_is_found_out_to_have_succeeded(task: Task) -> None:
    task.host.drop_push_answers()
    task.push(task.first)
    assert task.remote() == task.first


def test_a_protected_branch_is_a_failure_with_the_hosts_words(task: Task) -> None:
    task.host.protect("repo", "refs/heads/farhand/*")
    error = task.failing(task.first)
    assert error.code == "push_rejected_protected"
    assert "changes must be made through a pull request" in error.message
    assert task.remote() is None


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "repo_auth_failed"), (403, "push_forbidden"), (404, "repo_not_found"), (429, "repo_unreachable"),
     (500, "repo_unreachable"), (503, "repo_unreachable")],
)  # fmt: skip
def test_a_host_that_refuses_pushes_is_a_failure(task: Task, status: int, code: str) -> None:
    task.host.fail_pushes(status)
    assert task.failing(task.first).code == code
    assert task.remote() is None


def test_a_repository_that_does_not_take_pushes_is_a_failure(task: Task) -> None:
    task.host.git("repo", "config", "http.receivepack", "false")
    assert task.failing(task.first).code == "push_forbidden"


def test_a_host_that_is_gone_is_a_failure(task: Task) -> None:
    task.host.stop()
    try:
        assert task.failing(task.first).code == "repo_unreachable"
    finally:
        task.host.start = lambda: None  # type: ignore[method-assign]


def test_wrong_credentials_are_a_failure_and_stay_secret(task: Task) -> None:
    task.credentials = Credentials("x-access-token", "wrong-password")
    error = task.failing(task.first)
    assert error.code == "repo_auth_failed"
    assert "wrong-password" not in error.message + error.hint


def test_a_commit_that_is_not_there_is_a_failure(task: Task) -> None:
    assert task.failing("1" * 40).code == "push_failed"


@pytest.mark.parametrize(
    "branch",
    ["main", "refs/heads/main", "farhand/x", f"{BRANCH}/x", f"{BRANCH}\n", f"x/{BRANCH}", f"+{BRANCH}", "farhand/*",
     f"{BRANCH}:refs/heads/main", BRANCH.upper(), "farhand/01890a5dac96774bbcceb302099a8058", ""],
)  # fmt: skip
def test_no_other_branch_is_pushed_to(task: Task, branch: str, settings: Settings) -> None:
    before = task.host.refs("repo")
    assert task.failing(task.first, branch=branch).code == "push_branch_refused"
    with pytest.raises(GitError):
        remote_head(task.host.url("repo"), task.credentials, branch, settings)
    assert task.host.refs("repo") == before


@pytest.mark.parametrize("bad", ["HEAD", "", "main:refs/heads/main", "+" + "a" * 40])
def test_only_full_commit_ids_are_pushed(task: Task, bad: str) -> None:
    assert task.failing(bad).code == "object_id_invalid"


def test_a_push_to_a_file_repository(task: Task, source: Source, tmp_path: Path) -> None:
    settings = Settings.model_validate({"allowed_repo_hosts": ("file",), "run_dir": tmp_path / "other"})
    url = f"file://{source.remote}"
    mirror = MirrorStore(settings.run_dir, settings).refresh(uuid4(), url, None)
    repo = TaskRepo.build(tmp_path / "file.git", mirror, [])
    _, base = mirror.resolve(None)
    publish(repo, url, None, branch=BRANCH, sha=base, expected=None)
    assert task.remote() == base
