"""The supervisor, with real child processes: a small Python program that says when it is ready and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.cli.process import Identity, Service
from infra.cli.signals import StopRequestedError, StopSignals
from infra.cli.supervise import ServiceFailedError, Supervisor

DEADLINE_S = 20.0

# Arguments: a directory, a name, what to do with TERM. Leaves <name>.ready with its pid, and <name>.ended on TERM.
CHILD = """
import os, pathlib, signal, sys
directory, name, on_term = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def end(*_):
    with (directory / "ended").open("a") as file:
        file.write(name + "\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, end if on_term == "end" else signal.SIG_IGN)
fresh = directory / (name + ".fresh")
fresh.write_text(str(os.getpid()))
fresh.rename(directory / (name + ".ready"))
print("up and running", flush=True)
while True:
    signal.pause()
"""


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        select_nothing(0.01)


def select_nothing(seconds: float) -> None:
    with StopSignals() as signals:
        signals.wait(seconds)


def child(directory: Path, name: str, on_term: str = "end", **options: object) -> Service:
    ready = directory / f"{name}.ready"
    return Service(
        name=name,
        command=(sys.executable, "-c", CHILD, str(directory), name, on_term),
        ready=ready.exists,
        directory=directory,
        environment=os.environ,
        **options,  # type: ignore[arg-type]
    )


def pid_of(directory: Path, name: str) -> int:
    return int((directory / f"{name}.ready").read_text())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(logs=tmp_path / "logs", pids=tmp_path / "pids", say=said.append)
    yield made
    made.stop()


def test_start_returns_when_all_answer(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(child(tmp_path, "one"), child(tmp_path, "two"))
    for name in ("one", "two"):
        os.kill(pid_of(tmp_path, name), 0)
    until(lambda: "up and running" in (tmp_path / "logs/one.log").read_text())


def test_children_have_sessions_of_their_own(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(child(tmp_path, "one"))
    pid = pid_of(tmp_path, "one")
    assert os.getsid(pid) == pid != os.getsid(0)


def test_stop_goes_in_reverse_order(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(child(tmp_path, "database"))
    supervisor.start(child(tmp_path, "api"), child(tmp_path, "worker"))
    supervisor.stop()
    *first, last = (tmp_path / "ended").read_text().split()
    assert (set(first), last) == ({"worker", "api"}, "database")
    assert list((tmp_path / "pids").iterdir()) == []


def test_who_ignores_term_is_killed_after_its_deadline(supervisor: Supervisor, tmp_path: Path, said: list[str]) -> None:
    supervisor.start(child(tmp_path, "deaf", "ignore", stop_deadline_s=0.2))
    identity = Identity.of(pid_of(tmp_path, "deaf"))
    assert identity
    supervisor.stop()
    assert not identity.is_alive()
    assert said == ["deaf did not stop within 0.2 s, killing it"]


def test_a_second_request_to_stop_kills_at_once(tmp_path: Path, said: list[str]) -> None:
    def wait(seconds: float) -> None:
        if (tmp_path / "deaf.ready").exists():
            raise StopRequestedError(signal.SIGINT)
        time.sleep(seconds)

    supervisor = Supervisor(logs=tmp_path / "logs", pids=tmp_path / "pids", say=said.append, wait=wait)
    supervisor.start(child(tmp_path, "deaf", "ignore", stop_deadline_s=DEADLINE_S * 10))
    identity = Identity.of(pid_of(tmp_path, "deaf"))
    assert identity
    supervisor.stop()
    assert not identity.is_alive()
    assert said == ["killing what is left"]


def test_who_dies_is_restarted(
    supervisor: Supervisor, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class DoneError(Exception):
        pass

    supervisor.start(child(tmp_path, "one"), child(tmp_path, "two"))
    first, other = pid_of(tmp_path, "one"), pid_of(tmp_path, "two")

    def wait(seconds: float) -> None:
        if pid_of(tmp_path, "one") != first:
            raise DoneError
        time.sleep(seconds)

    os.kill(first, signal.SIGKILL)
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_wait", wait)
        with pytest.raises(DoneError):
            supervisor.watch()
    assert pid_of(tmp_path, "two") == other
    assert said == [f"one ended with SIGKILL, restart in 0.25 s; see {tmp_path}/logs/one.log"]


def test_pauses_between_restarts_grow(supervisor: Supervisor, tmp_path: Path, said: list[str]) -> None:
    service = Service(
        name="broken",
        command=("/bin/sh", "-c", "echo it is the disk >&2; exit 3"),
        ready=lambda: False,
        directory=tmp_path,
        environment={},
    )
    with pytest.raises(ServiceFailedError, match=r"broken ended with 3 before it was ready(.|\n)*it is the disk"):
        supervisor.start(service)
    assert [line.split(";")[0] for line in said] == [
        "broken ended with 3, restart in 0.25 s",
        "broken ended with 3, restart in 0.5 s",
    ]


def test_says_what_it_waits_for(
    supervisor: Supervisor, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.cli.supervise.SAY_AFTER_S", 0.05)
    monkeypatch.setattr("infra.cli.supervise.START_DEADLINE_S", 1.0)
    service = Service(
        name="slow", command=("/bin/sleep", "60"), ready=lambda: False, directory=tmp_path, environment={}
    )
    with pytest.raises(ServiceFailedError, match="slow does not answer after 1 s"):
        supervisor.start(service)
    assert said[0].startswith("waiting for slow (")


SUPERVISING = """
import pathlib, sys
from infra.cli.signals import StopSignals
from infra.cli.supervise import Supervisor
from tests.unit.cli.test_supervise import child
directory = pathlib.Path(sys.argv[1])
with StopSignals() as signals:
    supervisor = Supervisor(logs=directory / "logs", pids=directory / "pids", say=print, wait=signals.wait)
    supervisor.start(child(directory, "one"), child(directory, "deaf", "ignore"))
    print("started", flush=True)
    supervisor.watch()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_children_of_a_killed_supervisor_end_and_the_next_one_ends_the_deaf(
    supervisor: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    command = [sys.executable, "-c", SUPERVISING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        assert first.stdout.readline() == "started\n"
        one, deaf = (Identity.of(pid_of(tmp_path, name)) for name in ("one", "deaf"))
        assert one
        assert deaf
        first.kill()
    until(lambda: not one.is_alive())
    assert deaf.is_alive()
    supervisor.stop_leftovers()
    until(lambda: not deaf.is_alive())
    assert said == ["stopping what an earlier start has left behind: deaf"]


def test_a_process_with_the_number_of_an_old_one_is_left_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as innocent:
        Identity(innocent.pid, "another-boot 1").write(tmp_path / "pids/api")
        supervisor.stop_leftovers()
        assert innocent.poll() is None
        innocent.kill()


def test_wait_ends_when_a_child_ends() -> None:
    with StopSignals() as signals:
        began = time.monotonic()
        with subprocess.Popen(["/bin/true"]):
            signals.wait(DEADLINE_S)
        assert time.monotonic() - began < DEADLINE_S / 2


def test_each_signal_is_raised_once() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            signals.wait(DEADLINE_S)
        signals.wait(0.01)
