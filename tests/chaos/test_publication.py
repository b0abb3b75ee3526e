"""The worker or its database goes away while the branch is pushed (G8): one task, one branch, and no work twice."""

from __future__ import annotations

import pytest

from tests.chaos.stage import Followed, Stage, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def hold_the_push(stage: Stage, gate: str) -> None:
    """The model's last word is said, the branch is about to be pushed, and the git host does not answer yet."""
    stage.model.wait_for_held(gate, timeout=30)
    before = len(stage.git_host.requests)
    stage.git_host.hang()
    stage.model.open_gate(gate)
    stage.git_host.wait_until(lambda requests: any(request.is_push for request in requests[before:]), timeout=30)


def branch_of(stage: Stage, task: Followed) -> str | None:
    return stage.git_host.refs(stage.repo).get(f"refs/heads/farhand/{task.id}")


def test_a_push_that_nobody_recorded_is_built_upon(stage: Stage) -> None:
    task = stage.submit("push")
    hold_the_push(stage, "push")
    with stage.locked(task.id) as wait_for_a_write:
        stage.git_host.resume()
        pushed = eventually(lambda: branch_of(stage, task), "the branch is there")
        wait_for_a_write()
        stage.kill_worker_of(task.id)
    # The next attempt has more to do, so its commit is another one than the branch points to.
    stage.client.send_message(task.id, "and one more")
    ended = task.end()
    assert ended["attempt"] == 2
    assert ended["head_sha"] == branch_of(stage, task) != pushed
    assert task.pushed("counter") == "one\ntwo\n"
    assert stage.asked("push") == {0: 1, 1: 1, 2: 1, 3: 1}


def test_postgres_goes_away_while_the_branch_is_pushed(stage: Stage) -> None:
    task = stage.submit("unsaid")
    hold_the_push(stage, "unsaid")
    stage.postgres.stop()
    try:
        stage.git_host.resume()
        eventually(lambda: branch_of(stage, task), "the branch is there")
    finally:
        stage.postgres.start()
    ended = task.end()
    assert ended["attempt"] == 1
    assert ended["head_sha"] == branch_of(stage, task)
    assert task.pushed("counter") == "one\n"
    assert "+one" in stage.client.diff(task.id)
