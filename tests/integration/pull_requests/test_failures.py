"""Every way in which GitHub can fail ends in an `error` event; the task stays completed, and may be asked again."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any
from uuid import UUID

import httpx
import pytest

from infra.tasks.pull_requests import MAX_TRIES
from tests.integration.pull_requests.conftest import REPO, Scene
from tests.standin.github import Fault
from workers.pull_requests.base import HostBusyError
from workers.pull_requests.pinned import PinnedHttp

AN_HOUR_AGO = int(time.time()) - 3600
LIMIT = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}


def answer(status: int, message: str = "no", **headers: str) -> Fault:
    return Fault(status=status, body={"message": message}, headers={k.replace("_", "-"): v for k, v in headers.items()})


def invalid(field: str) -> Fault:
    errors = [{"resource": "PullRequest", "field": field, "code": "invalid"}]
    return Fault(status=422, body={"message": "Validation Failed", "errors": errors})


def only_error(scene: Scene, task_id: UUID) -> dict[str, Any]:
    (error,) = scene.events(task_id, "error")
    return error


REFUSALS: list[tuple[str, Fault, str, str]] = [
    ("GET", answer(401, "Bad credentials"), "pull_request_unauthorized", "expired or was revoked"),
    ("GET", answer(404, "Not Found"), "pull_request_repo_unseen", "may write pull requests"),
    ("GET", answer(410, "gone"), "pull_request_gone", "Enable them"),
    ("GET", answer(301, "Moved Permanently", Location="/repositories/1/pulls"), "pull_request_redirected", "renamed"),
    ("GET", answer(302, "Found", Location="http://169.254.169.254/"), "pull_request_redirected", "renamed"),
    ("GET", answer(418, "short and stout"), "pull_request_refused", "short and stout"),
    ("POST", answer(403, "Resource not accessible by personal access token"), "pull_request_forbidden", "fine-grained"),
    ("POST", answer(403, "SAML", X_GitHub_SSO="required; url=https://x"), "pull_request_forbidden", "single sign-on"),
    ("POST", invalid("head"), "branch_gone", "Retry the task"),
    ("POST", invalid("base"), "base_branch_gone", "by hand"),
    ("POST", answer(422, "No commits between main and x"), "pull_request_empty", "merged already"),
    (
        "POST",
        Fault(status=422, body={"message": "Validation Failed", "errors": ["odd"]}),
        "pull_request_refused",
        "odd",
    ),
    ("POST", Fault(status=422, body=b"[1]"), "pull_request_refused", "no reason was given"),
    ("GET", answer(429, "slow", Retry_After="90000"), "pull_request_rate_limited", "25.0 hours"),
]


@pytest.mark.parametrize(("method", "fault", "code", "said"), REFUSALS, ids=[f"{r[1].status}-{r[2]}" for r in REFUSALS])
def test_a_refusal_is_told_with_what_to_do_and_a_request_tries_again(
    scene: Scene, method: str, fault: Fault, code: str, said: str
) -> None:
    task_id = scene.task()
    scene.request(task_id)
    scene.github.inject(method, fault)
    assert scene.desk.serve_next()
    error = only_error(scene, task_id)
    assert error["code"] == code
    assert said in error["message"]
    row = scene.row(task_id)
    assert (row.status, row.error, row.pull_request_requested_at) == ("completed", None, None)
    assert not scene.desk.serve_next(), "it is given up"
    assert scene.github.pulls(REPO) == []
    scene.request(task_id)
    assert scene.desk.serve_next()
    assert len(scene.github.pulls(REPO)) == 1
    assert len(scene.events(task_id, "pull_request")) == 1


PASSING: list[tuple[str, Fault, str]] = [
    ("GET", answer(502, "Server Error"), "pull_request_host_failed"),
    ("GET", Fault(status=503, body=b"<html>unicorn</html>"), "pull_request_host_failed"),
    ("GET", Fault("cut"), "pull_request_host_unreachable"),
    ("GET", Fault(body=b"<html>"), "pull_request_host_garbled"),
    ("GET", Fault(body={"message": "no list"}), "pull_request_host_garbled"),
    ("GET", Fault(body=[{"number": 1}]), "pull_request_host_garbled"),
    ("GET", Fault(body=[None]), "pull_request_host_garbled"),
    ("GET", Fault(body=b"[" * 100_000), "pull_request_host_garbled"),
    ("GET", Fault(body=b'"' + b"x" * 9_000_000 + b'"'), "pull_request_host_unreachable"),
    ("POST", Fault("cut"), "pull_request_host_unreachable"),
    ("POST", Fault("cut", afterwards=True), "pull_request_host_unreachable"),
    ("POST", Fault(status=500, afterwards=True), "pull_request_host_failed"),
    ("POST", Fault(status=201, body=b"{}", afterwards=True), "pull_request_host_garbled"),
    ("POST", Fault(status=201, body=b"", afterwards=True), "pull_request_host_garbled"),
]


@pytest.mark.parametrize(("method", "fault", "code"), PASSING)
def test_what_passes_is_waited_for_and_made_once(scene: Scene, method: str, fault: Fault, code: str) -> None:
    task_id = scene.task()
    scene.request(task_id)
    scene.github.inject(method, fault)
    assert scene.desk.serve_next()
    error = only_error(scene, task_id)
    assert error["code"] == code
    assert error["message"].endswith("trying again in 5 s")
    assert not scene.desk.serve_next(), "it rests"
    scene.rested(task_id)
    assert scene.desk.serve_next()
    assert len(scene.github.pulls(REPO)) == 1
    assert len(scene.events(task_id, "pull_request")) == 1


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault(status=403, body=LIMIT), 60),
        (Fault(status=403, body=LIMIT, headers={"Retry-After": "300"}), 300),
        (Fault(status=429, body=LIMIT, headers={"Retry-After": "70"}), 70),
        # Its own clock counts: it is an hour before ours.
        (
            Fault(
                status=403,
                body={"message": "API rate limit exceeded"},
                headers={
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(AN_HOUR_AGO + 900),
                    "Date": formatdate(AN_HOUR_AGO, usegmt=True),
                },
            ),
            900,
        ),
    ],
)
def test_limits_are_waited_for_as_long_as_github_says(scene: Scene, fault: Fault, seconds: int) -> None:
    task_id = scene.task()
    scene.github.inject("GET", fault)
    scene.request(task_id)
    scene.desk.serve_next()
    error = only_error(scene, task_id)
    assert error["code"] == "pull_request_rate_limited"
    assert error["message"].endswith(f"trying again in {seconds} s")
    # To ask once more does not shorten it: GitHub bans those who do not wait.
    scene.request(task_id)
    assert not scene.desk.serve_next()
    assert len(scene.github.requests) == 1


def test_it_is_given_up_in_the_end(scene: Scene) -> None:
    task_id = scene.task()
    scene.github.inject("GET", answer(500), times=MAX_TRIES)
    scene.request(task_id)
    for _ in range(MAX_TRIES):
        assert scene.desk.serve_next()
        scene.rested(task_id)
    assert not scene.desk.serve_next()
    errors = scene.events(task_id, "error")
    assert len(errors) == MAX_TRIES
    assert f"gave up after {MAX_TRIES} tries" in str(errors[-1]["message"])


def test_workers_that_die_of_it_are_counted(scene: Scene) -> None:
    task_id = scene.task()
    scene.request(task_id)
    for _ in range(MAX_TRIES):
        assert scene.take() is not None
        scene.rested(task_id)
    assert scene.desk.serve_next()
    assert "did not come back" in str(only_error(scene, task_id)["message"])
    assert not scene.desk.serve_next()


def test_a_host_that_hangs_does_not_keep_its_worker(scene: Scene) -> None:
    """With a timeout that suits a test; the worker's own is a constant."""
    scene.github.inject("GET", Fault("hold"))
    allowed = scene.services.settings.allowed_repo_hosts
    http = PinnedHttp(scene.github.base_url, {}, allowed=allowed, renew=lambda: None, timeout=httpx.Timeout(0.2))
    with pytest.raises(HostBusyError) as caught:
        http.send("GET", "/repos")
    assert caught.value.code == "pull_request_host_unreachable"


def test_a_limit_at_the_end_of_an_attempt_holds_nothing_up(scene: Scene) -> None:
    scene.project(pull_request="always")
    hold = scene.push(lease := scene.running())
    assert hold is not None
    scene.github.inject("GET", Fault(status=429, body=LIMIT))
    scene.desk.serve(hold)
    task_id = scene.completed(lease)
    assert scene.world.events(task_id)[-3:] == ["branch_pushed", "error", "completed"]
    scene.rested(task_id)
    assert scene.desk.serve_next()
    assert scene.world.events(task_id)[-2:] == ["completed", "pull_request"]


def test_a_plan_without_drafts_gets_a_plain_one(scene: Scene) -> None:
    scene.github.drafts = False
    task_id = scene.task()
    scene.request(task_id)
    scene.desk.serve_next()
    assert [pull["draft"] for pull in scene.github.pulls(REPO)] == [False]


def test_an_api_at_a_private_address_is_not_spoken_to(scene: Scene) -> None:
    task_id = scene.task()
    scene.request(task_id)
    allowed = scene.services.settings.allowed_repo_hosts[:1]  # the git host without its API
    settings = scene.services.settings.model_copy(update={"allowed_repo_hosts": allowed})
    object.__setattr__(scene.services, "settings", settings)
    scene.desk.serve_next()
    assert only_error(scene, task_id)["code"] == "pull_request_host_refused"
    assert scene.github.requests == []


def test_a_filter_that_is_passed_over_finds_nothing_of_others(scene: Scene) -> None:
    other, task_id = scene.task(), scene.task()
    scene.request(other)
    scene.desk.serve_next()
    fork = scene.github.pulls(REPO)[0]
    fork["head"] = {**fork["head"], "repo": None}
    scene.github.inject("GET", Fault(body=[*scene.github.pulls(REPO), fork]))
    scene.request(task_id)
    scene.desk.serve_next()
    assert len(scene.github.pulls(REPO)) == 2
    assert scene.row(task_id).pull_request["number"] == 2


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://x/" + "y" * 3000, None])
def test_an_address_that_is_none_is_not_shown(scene: Scene, url: str | None) -> None:
    task_id = scene.task()
    scene.request(task_id)
    scene.github.inject("POST", Fault(status=201, body={"number": 1, "html_url": url, "state": "open", "body": ""}))
    scene.desk.serve_next()
    assert only_error(scene, task_id)["code"] == "pull_request_host_garbled"
    assert scene.events(task_id, "pull_request") == []


@pytest.mark.parametrize("token", ["tab\there", "ünï", " padded"])
def test_a_token_that_is_none_is_not_repeated(scene: Scene, token: str) -> None:
    scene.project(git_token_encrypted=scene.services.keys.encrypt(token))
    task_id = scene.task()
    scene.request(task_id)
    scene.desk.serve_next()
    error = only_error(scene, task_id)
    assert error["code"] == "pull_request_unauthorized"
    assert token not in error["message"]
