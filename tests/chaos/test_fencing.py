"""A worker stands still at every kind of write and at the push, past its lease, and comes to itself when another one
has its tasks: it kills what it ran, and nothing of what it was about to write is there (G2, G8).

Each task is held where its worker is about to commit one kind of write (`tests.referee.holds`). When all are, one
worker is stopped; Postgres gives up its writes, as it does for a client that it takes for dead; the other worker takes
its tasks over. Then the stopped one goes on, and tries each write again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.acceptance.conftest import CREDENTIALS
from tests.chaos.conftest import deployed
from tests.chaos.stage import Followed, Stage, eventually
from tests.chaos.trajectories import FENCED
from tests.referee.holds import Hold, Holds
from tests.services import Postgres, Redis

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PUSH = "push"
PUSHED_REPO = "pushed"


@dataclass
class Held:
    """A task that is held before one write. `hold` None: before its push."""

    task: Followed
    hold: Hold | None


@pytest.fixture
def two(postgres: Postgres, mortal_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two workers, each with room for all tasks."""
    slots = str(len(FENCED) + 1)
    scratch = tmp_path_factory.mktemp("fenced")
    with deployed(
        postgres,
        mortal_redis,
        5,
        scratch,
        "--workers",
        "2",
        FARHAND_WORKER_SLOTS=slots,
        FARHAND_MAX_CONCURRENT_TASKS=slots,
    ) as stage:
        yield stage


@pytest.mark.timeout(400)
def test_who_stands_still_at_any_write_or_push_has_lost_it(two: Stage) -> None:
    holds = Holds(two.settings.database_url)
    two.git_host.create(PUSHED_REPO, from_dir=two.deployment._data.parent / "tree")
    two.git_host.hold_push(PUSHED_REPO, afterwards=False)
    try:
        held = {name: _held(two, holds, name) for name in FENCED}
        done: set[str] = set()
        for number in (1, 2):
            done |= _stop_and_lose(two, holds, held, number)
        assert done == set(FENCED)
    finally:
        holds.remove()


def _held(stage: Stage, holds: Holds, name: str) -> Held:
    """Sent; it runs until it is held."""
    repo_url = stage.repo_url
    if name == PUSH:
        hold, repo_url = None, stage.git_host.url(PUSHED_REPO)
        stage.client.create_project(repo_url=repo_url, git_username=CREDENTIALS[0], git_token=CREDENTIALS[1])
    else:
        place, detail = FENCED[name]
        hold = holds.add(place, f"[trajectory:fence-{name}]", detail)
    task = stage.client.submit(repo_url=repo_url, prompt=f"do it [trajectory:fence-{name}]")
    return Held(Followed(stage, f"fence-{name}", task["id"]), hold)


def _stop_and_lose(stage: Stage, holds: Holds, held: dict[str, Held], number: int) -> set[str]:
    """Stop one worker while all that it runs is held, and see to the end of these tasks. Returns which they were."""
    pid = stage.worker(number)

    def all_held() -> list[set[str]]:
        mine = {name for name in held if _runs_on(stage, held[name].task, number)}
        waiting = all(_is_held(stage, holds, held[name]) for name in held if not _ended(stage, held[name].task))
        return [mine] if waiting else []

    (mine,) = eventually(all_held, "every task that has not ended is held")
    attempts = {name: _attempt(stage, held[name].task) for name in mine}
    sandboxes = {name: stage.containers_of(held[name].task.id) for name in mine}
    os.kill(pid, signal.SIGSTOP)
    try:
        for name in mine:
            hold = held[name].hold
            if hold is not None:
                holds.drop(hold)
        for name in mine:
            eventually(lambda name=name: _attempt(stage, held[name].task) > attempts[name], f"{name} is taken over")  # type: ignore[misc]
        if PUSH in mine:
            stage.git_host.end_push(PUSHED_REPO, dropped=False)  # both pushes go on, that of the stopped one first
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: _live_workers(stage) == 2, "the stopped worker is back under a new id")
    for name in mine:
        _ended_as_it_must(stage, name, held[name].task, attempts[name])
    gone = {container for name in mine for container in sandboxes[name]}
    eventually(lambda: not gone & set(stage.containers()), "what the stopped worker ran is gone")
    return mine


def _ended_as_it_must(stage: Stage, name: str, task: Followed, stale: int) -> None:
    assert task.end()["attempt"] == stale + 1
    late = "select 1 from steps s join attempts a on a.task_id = s.task_id and a.number = %s + 1"
    assert stage.rows(f"{late} where s.task_id = %s and s.attempt = %s and s.created_at > a.started_at",
                      stale, task.id, stale) == []  # fmt: skip
    # What was lost in the air is asked for or reported, never done twice.
    asked = {turn: count for turn, count in stage.asked(f"fence-{name}").items() if count > 1}
    assert asked == ({1: 2} if name == "step" else {})
    (pushed,) = {event["data"]["sha"] for event in task.of("branch_pushed")}
    repo = PUSHED_REPO if name == PUSH else stage.repo
    refs = {ref: sha for ref, sha in stage.git_host.refs(repo).items() if task.id in ref}
    assert refs == {f"refs/heads/farhand/{task.id}": pushed}
    if name == "result":
        assert "interrupted" in task.output("2.0")
    if name != PUSH:
        assert task.pushed("counter") == ("one\n" if name == "result" else "one\ntwo\n")


def _is_held(stage: Stage, holds: Holds, one: Held) -> bool:
    if one.hold is not None:
        return holds.is_reached(one.hold)
    push = stage.git_host.held_pushes.get(PUSHED_REPO)
    return push is not None and push.reached.is_set()


def _runs_on(stage: Stage, task: Followed, number: int) -> bool:
    query = "select 1 from tasks t join workers w on w.id = t.worker_id where t.id = %s and w.name like %s"
    return bool(stage.rows(query, task.id, f"worker{number}@%"))


def _attempt(stage: Stage, task: Followed) -> int:
    ((attempt,),) = stage.rows("select attempt from tasks where id = %s", task.id)
    return int(attempt)


def _ended(stage: Stage, task: Followed) -> bool:
    return bool(stage.rows("select 1 from tasks where id = %s and completed_at is not null", task.id))


def _live_workers(stage: Stage) -> int:
    ((count,),) = stage.rows("select count(*) from workers where alive_until > now() and swept_at is null")
    return int(count)
