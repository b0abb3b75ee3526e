"""What is wanted becomes one pull request, is kept up to date, and what goes wrong is said."""

from __future__ import annotations

import threading

import pytest

from infra.errors import AuthorityLostError, ConflictError, NotFoundError
from infra.ids import new_id
from infra.tasks import pull_requests
from infra.tasks.transitions import Lease
from infra.tasks.views import branch_name
from tests.integration.pull_requests.conftest import REPO, TOKEN, Scene
from tests.standin.github import Fault


def test_a_request_opens_a_draft_and_says_so_once(scene: Scene) -> None:
    task_id = scene.task("Make the failing test pass\nin all its cases", "It works now.")
    assert not scene.desk.serve_next()
    assert scene.request(task_id).pull_request_requested_at is not None
    assert scene.desk.serve_next()
    (pull,) = scene.github.pulls(REPO)
    assert (pull["title"], pull["draft"]) == ("Make the failing test pass", True)
    assert (pull["head"]["ref"], pull["base"]["ref"]) == (branch_name(task_id), "main")
    for part in ("It works now.", "in all its cases", "$0.0000", f"https://farhand.example/tasks/{task_id}"):
        assert part in pull["body"]
    row = scene.row(task_id)
    assert row.pull_request == {"url": pull["html_url"], "number": 1}
    assert (row.pull_request_requested_at, row.pull_request_token, row.pull_request_not_before) == (None, None, None)
    assert scene.events(task_id, "pull_request") == [row.pull_request]
    # Once more: it is looked at, and nothing is to be done.
    scene.request(task_id)
    assert scene.desk.serve_next()
    assert not scene.desk.serve_next()
    assert [request.method for request in scene.github.requests] == ["GET", "POST", "GET"]
    assert len(scene.events(task_id, "pull_request")) == 1
    assert scene.events(task_id, "error") == []


def test_the_token_is_in_the_header_and_nowhere_else(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    task_id = scene.task()
    scene.github.inject("POST", Fault(status=403, body={"message": f"{TOKEN} is not welcome"}))
    scene.request(task_id)
    scene.desk.serve_next()
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in scene.github.requests)
    assert TOKEN not in str([(request.path, request.query, request.body) for request in scene.github.requests])
    (error,) = scene.events(task_id, "error")
    assert "*** is not welcome" in str(error["message"])
    assert TOKEN not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("workers"))


def test_what_can_have_none_is_told_at_once(scene: Scene) -> None:
    def refused(task: Lease) -> str:
        with pytest.raises(ConflictError) as caught:
            scene.request(task.task_id)
        assert caught.value.hint
        assert scene.row(task.task_id).pull_request_requested_at is None
        return caught.value.code

    lease = scene.running()
    assert refused(lease) == "no_branch"
    scene.push(lease)
    scene.project(pull_request="never")
    assert refused(lease) == "pull_requests_off"
    scene.project(pull_request="on_request", git_token_encrypted=None)
    assert refused(lease) == "git_token_missing"
    scene.change(lease.task_id, repo_url="https://git.example.invalid/owner/name")
    assert refused(lease) == "pull_request_host_unsupported"
    with pytest.raises(NotFoundError), scene.services.tasks.transaction() as tx:
        pull_requests.request(tx, lease.task_id, user_id=new_id(), github_hosts=())
    assert scene.github.requests == []


def test_always_opens_it_before_the_task_is_completed(scene: Scene) -> None:
    scene.project(pull_request="always")
    lease = scene.running()
    hold = scene.push(lease)
    assert hold is not None
    assert not scene.desk.serve_next(), "the attempt holds it"
    scene.desk.serve(hold)
    scene.completed(lease)
    assert scene.world.events(lease.task_id)[-3:] == ["branch_pushed", "pull_request", "completed"]


def test_never_means_never(scene: Scene) -> None:
    scene.project(pull_request="never")
    task_id = scene.task()
    assert scene.row(task_id).pull_request_requested_at is None


def test_a_follow_up_updates_the_body_and_leaves_the_rest_to_people(scene: Scene) -> None:
    task_id = scene.task()
    scene.request(task_id)
    scene.desk.serve_next()
    (pull,) = scene.github.pulls(REPO)
    scene.github.change(REPO, 1, title="A better title", body=f"For review.\r\n{pull['body']}\r\nThanks!")
    lease = scene.again(task_id)
    scene.change(task_id, spent_usd=1.25)
    hold = scene.push(lease)
    assert hold is not None, "from its first pull request on a task keeps it up to date"
    scene.desk.serve(hold)
    scene.completed(lease)
    (pull,) = scene.github.pulls(REPO)
    assert pull["title"] == "A better title"
    assert pull["body"].startswith("For review.\n<!-- farhand:begin -->")
    assert pull["body"].endswith("<!-- farhand:end -->\nThanks!")
    assert "$1.2500" in pull["body"]
    assert len(scene.events(task_id, "pull_request")) == 1
    # Who takes the marks away has the body to themselves.
    scene.github.change(REPO, 1, body="all mine")
    hold = scene.push(lease := scene.again(task_id))
    assert hold is not None
    scene.desk.serve(hold)
    scene.completed(lease)
    assert [pull["body"] for pull in scene.github.pulls(REPO)] == ["all mine"]


@pytest.mark.parametrize("ended", ["closed", "merged"])
def test_what_people_ended_is_not_opened_again(scene: Scene, ended: str) -> None:
    task_id = scene.task()
    scene.request(task_id)
    scene.desk.serve_next()
    if ended == "closed":
        scene.github.change(REPO, 1, state="closed")
    else:
        scene.github.merge(REPO, 1)
    hold = scene.push(lease := scene.again(task_id))
    assert hold is not None
    scene.desk.serve(hold)
    scene.completed(lease)
    assert len(scene.github.pulls(REPO)) == 1
    assert scene.github.sent("PATCH") == [], "it is theirs now"
    (error,) = scene.events(task_id, "error")
    assert error["code"] == f"pull_request_{ended}"
    assert len(scene.events(task_id, "pull_request")) == 1


def test_a_merged_one_with_all_of_the_work_is_no_error(scene: Scene) -> None:
    task_id = scene.task()
    scene.request(task_id)
    scene.desk.serve_next()
    scene.github.merge(REPO, 1)
    scene.request(task_id)
    scene.desk.serve_next()
    assert scene.events(task_id, "error") == []
    assert scene.row(task_id).pull_request_requested_at is None


def test_the_next_one_finds_what_nobody_recorded(scene: Scene) -> None:
    """The worker died between the host's answer and its commit: its hold runs out."""
    task_id = scene.task()
    scene.request(task_id)
    lost = scene.take()
    assert lost is not None
    found, _ = scene.desk._bring_about(lost)
    assert not scene.desk.serve_next(), "it is held still"
    scene.rested(task_id)
    assert scene.desk.serve_next()
    assert [pull["number"] for pull in scene.github.pulls(REPO)] == [1]
    assert scene.events(task_id, "pull_request") == [{"url": found.url, "number": 1}]
    # The lost one comes back, and may write nothing and send nothing.
    before = len(scene.github.requests)
    scene.desk.serve(lost)
    assert len(scene.github.requests) == before
    with pytest.raises(AuthorityLostError), scene.services.tasks.transaction() as tx:
        pull_requests.finish(tx, lost, {"url": "https://github.com/o/r/pull/2", "number": 2})
    assert len(scene.events(task_id, "pull_request")) == 1


def test_an_attempt_that_lost_its_task_writes_nothing_of_it(scene: Scene) -> None:
    scene.project(pull_request="always")
    lease = scene.running()
    hold = scene.push(lease)
    assert hold is not None
    scene.change(lease.task_id, lease_token=new_id())
    scene.desk.serve(hold)
    assert scene.github.requests == []
    assert scene.events(lease.task_id, "pull_request") == []


def test_many_ask_and_many_serve_and_there_is_one(scene: Scene) -> None:
    task_id = scene.task()
    scene.request(task_id)
    held = scene.github.inject("POST", Fault("hold"))

    def ask_and_serve() -> None:
        for _ in range(5):
            scene.request(task_id)
            scene.desk.serve_next()

    first = threading.Thread(target=scene.desk.serve_next)
    first.start()
    scene.github.wait_until(lambda requests: any(request.method == "POST" for request in requests))
    others = [threading.Thread(target=ask_and_serve) for _ in range(4)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert scene.github.sent("POST")[1:] == []
    held.released.set()
    first.join()
    # What was asked for meanwhile is not lost.
    assert scene.row(task_id).pull_request_requested_at is not None
    assert scene.desk.serve_next()
    assert scene.row(task_id).pull_request_requested_at is None
    assert len(scene.github.pulls(REPO)) == 1
    assert len(scene.events(task_id, "pull_request")) == 1


def test_two_workers_that_both_think_it_is_theirs_make_one(scene: Scene) -> None:
    """One was stopped between its last renewal and its request: the host refuses the second."""
    task_id = scene.task()
    scene.request(task_id)
    held = scene.github.inject("POST", Fault("hold"))
    stopped = threading.Thread(target=scene.desk.serve_next)
    stopped.start()
    scene.github.wait_until(lambda requests: any(request.method == "POST" for request in requests))
    scene.rested(task_id)
    assert scene.desk.serve_next()
    held.released.set()
    stopped.join()
    assert len(scene.github.sent("POST")) == 2
    assert len(scene.github.pulls(REPO)) == 1
    assert len(scene.events(task_id, "pull_request")) == 1
