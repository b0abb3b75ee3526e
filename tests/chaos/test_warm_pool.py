"""Sandboxes that wait for a task, when their worker, or they themselves, die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import deployed
from tests.chaos.stage import Stage, alive, eventually
from tests.services import Postgres, Redis

pytestmark = [pytest.mark.docker, pytest.mark.slow]

EACH = 2
"""So many wait in each of two workers."""


@pytest.fixture(scope="module")
def shared_warm(postgres: Postgres, mortal_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch = tmp_path_factory.mktemp("warm")
    with deployed(postgres, mortal_redis, 2, scratch, "--workers", "2", warm=EACH) as stage:
        yield stage


@pytest.fixture
def warm(shared_warm: Stage) -> Iterator[Stage]:
    """Two workers whose pools are full, before the test; as good as new after it."""
    eventually(lambda: len([one for one in shared_warm.sandboxes() if is_linked(one)]) == 2 * EACH, "pools are full")
    yield shared_warm
    shared_warm.assert_clean()


def test_a_task_gets_a_sandbox_that_waited(warm: Stage) -> None:
    waiting = warm.sandboxes()
    task = warm.submit("plain")
    task.end()
    assert taken_by(warm, task.id) in waiting
    assert taken_by(warm, task.id) not in warm.sandboxes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to leave"])
def test_what_waited_for_a_dead_worker_goes_and_what_waits_for_its_sibling_stays(
    warm: Stage, how: signal.Signals
) -> None:
    before = warm.sandboxes()
    worker = warm.worker(1)
    os.kill(worker, how)
    eventually(lambda: not alive(worker), "the worker is gone")
    eventually(lambda: len(warm.sandboxes() - before) == EACH, "its successor has filled its own pool")
    eventually(lambda: len(warm.sandboxes()) == 2 * EACH, "nothing is left of the old one")
    assert len(warm.sandboxes() & before) == EACH
    warm.submit("plain").end()


def test_a_worker_that_is_killed_with_a_task_leaves_it_to_another(warm: Stage) -> None:
    task = warm.submit("elsewhere")
    warm.model.wait_for_held("elsewhere", timeout=30)
    warm.kill_worker_of(task.id)
    warm.model.open_gate("elsewhere")
    assert task.end()["attempt"] == 2


def test_one_that_dies_as_it_is_handed_over_costs_the_task_nothing_but_time(warm: Stage) -> None:
    waiting = warm.sandboxes()
    for sandbox in waiting:
        tell(sandbox, "STOP")  # it will not ask, nor read its answer
    task = warm.submit("plain")
    first = eventually(lambda: taken_by(warm, task.id), "it is handed over") or ""
    for sandbox in waiting:
        tell(sandbox, "KILL" if sandbox == first else "CONT")
    ended = task.end()
    assert first in waiting
    assert taken_by(warm, task.id) not in waiting
    assert ended["attempt"] == 1
    assert warm.rows("select deaths from tasks where id = %s", task.id) == [(0,)]
    assert warm.asked("plain")[0] >= 1
    assert task.pushed("counter") == "one\n"


def test_one_that_dies_later_is_a_death(warm: Stage) -> None:
    task = warm.submit("busy")
    warm.model.wait_for_held("busy", timeout=30)
    tell(taken_by(warm, task.id) or "", "KILL")
    task.wait_for("task_resumed")
    warm.model.open_gate("busy")
    assert task.end()["attempt"] == 2


def taken_by(stage: Stage, task_id: str) -> str | None:
    ((sandbox,),) = stage.rows(
        "select a.sandbox_id from tasks t left join attempts a on a.task_id = t.id and a.number = t.attempt"
        " where t.id = %s",
        task_id,
    )
    return str(sandbox) if sandbox else None


def is_linked(sandbox: str) -> bool:
    """Whether the loop of a sandbox has connected to its worker, to ask for a job."""
    for pid in pids_of(sandbox)[:1]:
        with contextlib.suppress(FileNotFoundError):  # ended meanwhile
            sockets = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()]
            return any(f"/s/{sandbox}/link/" in fields[-1] and fields[5] == "03" for fields in sockets)
    return False


def tell(sandbox: str, what: str) -> None:
    """Send a signal to every process of a sandbox, from outside."""
    for pid in pids_of(sandbox):
        subprocess.run(["kill", f"-{what}", pid], check=False, capture_output=True)


def pids_of(sandbox: str) -> list[str]:
    named = ["docker", "ps", "--quiet", "--filter", f"label=farhand.sandbox={sandbox}"]
    for container in subprocess.run(named, check=True, capture_output=True, text=True).stdout.split():
        listed = subprocess.run(["docker", "top", container, "-eo", "pid"], check=False, capture_output=True, text=True)
        return listed.stdout.split()[1:]
    return []
