"""`farhand up`, and the commands that talk to it, as a user starts them: real processes on every side."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.cli.data_dir import DataDir, remove_tree
from infra.cli.process import Identity
from infra.cli.sample_repo import SampleRepo
from infra.client import Client
from infra.demo import PROMPT, RECORDINGS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0
CHILDREN = ("postgres", "redis", "api", "worker1")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "infra.cli", *arguments]


def environment(recordings: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FARHAND_SANDBOX": "local",
        "FARHAND_ALLOWED_REPO_HOSTS": "file",
        "FARHAND_RECORDINGS": str(recordings),
        "FARHAND_MAX_STEP": "7",  # mistyped: it must be told
    }


class Up:
    """One data directory, and the `up` that runs on it now."""

    def __init__(self, directory: Path) -> None:
        self.data = DataDir(directory / "data")
        self.recordings = directory / "recordings"
        self.recordings.mkdir()
        shutil.copy(RECORDINGS / "demo.json", self.recordings)
        self.repo = SampleRepo(directory)
        self.repo.make()
        self._errors = (directory / "up.err").open("w+")

    def start(self) -> None:
        """Returns once it has said that it is ready."""
        self.process = subprocess.Popen(
            command("up", "--data", str(self.data.path)),
            env=environment(self.recordings),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        line = self.process.stdout.readline() if readable else ""
        ready = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+)\n", line)
        assert ready, f"it said {line!r} and {self.said()}"
        self.url = ready[1]

    def stop(self, sig: signal.Signals) -> int:
        self.process.send_signal(sig)
        code = self.process.wait(DEADLINE_S)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def log(self, service: str) -> str:
        return (self.data.logs / f"{service}.log").read_text()

    def children(self) -> dict[str, Identity]:
        found = ((file.name, Identity.read(file)) for file in self.data.pids.iterdir())
        return {name: identity for name, identity in found if identity is not None and identity.is_alive()}

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)
        self._errors.close()
        remove_tree(self.data.run_dir())

    def client(self) -> Client:
        token = self.data.token()
        assert token
        return Client(self.url, token)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env={**environment(self.recordings), "FARHAND_DATA": str(self.data.path)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )


def until(reached: Callable[[], Any]) -> None:
    """Ask again and again until it is so, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    # Not pytest's directory: the parents of a data directory may be closed to all but us, and this one is.
    with tempfile.TemporaryDirectory(prefix="fh-up-") as directory:
        made = Up(Path(directory))
        made.start()
        yield made
        made.close()


def test_the_local_user_gets_in_by_the_token_file(up: Up) -> None:
    with up.client() as client:
        assert client.tasks() == []
    assert up.data.token_file.stat().st_mode & 0o777 == 0o600
    assert (up.data.path / "secret-keys").stat().st_mode & 0o777 == 0o600
    assert up.cli("token").stdout.strip() == up.data.token()


def test_a_mistyped_setting_is_told_by_every_service(up: Up) -> None:
    told = "FARHAND_MAX_STEP is set, but there is no such setting; did you mean FARHAND_MAX_STEPS?"
    assert told in up.said()
    for service in ("api", "worker1"):
        until(lambda name=service: told in up.log(name))  # type: ignore[misc]
    assert told in up.cli("doctor").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="what root is told")
def test_a_worker_that_is_root_is_not_lectured(up: Up) -> None:
    until(lambda: "takes tasks" in up.log("worker1"))
    assert "superuser" not in up.log("worker1")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_beyond_this_machine(up: Up) -> None:
    ours = {link for child in up.children().values() for link in sockets_of(child.pid)}
    listening = [fields for fields in tcp_sockets() if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours]
    assert {fields[1].split(":")[0] for fields in listening} == {"0100007F"}  # 127.0.0.1
    assert len(listening) == 2, "the API and Redis; Postgres has a Unix socket"


def sockets_of(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield str(entry.readlink())
        except FileNotFoundError:
            continue


def tcp_sockets() -> Iterator[list[str]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            yield line.split()


@pytest.mark.parametrize("name", CHILDREN)
def test_who_is_killed_comes_back_on_the_same_data_and_address(up: Up, name: str) -> None:
    before = up.children()
    os.kill(before[name].pid, signal.SIGKILL)
    until(lambda: up.children().get(name, before[name]) != before[name])
    until(lambda: answers(up.url))
    with up.client() as client:
        client.tasks()
    for other in set(CHILDREN) - {name}:
        assert up.children()[other] == before[other]
    assert f"{name} ended with SIGKILL, restart in" in up.said()


def test_a_second_up_on_the_same_data_is_refused(up: Up) -> None:
    refused = up.cli("up")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {up.data.path} is in use by process {up.process.pid} (data_in_use)\n")
    assert answers(up.url)


def test_run_watches_a_task_to_its_end(up: Up) -> None:
    done = up.cli("run", "--repo", up.repo.url, "--model", "replay:demo", "--json", PROMPT)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("task_created", "completed")
    task_id = events[0]["task_id"]
    assert up.repo.test(f"farhand/{task_id}").passed

    shown = json.loads(up.cli("show", "--json", task_id).stdout)
    assert (shown["status"], shown["last_seq"]) == ("completed", len(events))
    assert json.loads(up.cli("tasks", "--json").stdout.splitlines()[0])["id"] == task_id
    assert task_id in up.cli("tasks").stdout, "an id that was cut is of no use to `farhand show`"
    assert "+        if seconds >= size:\n" in up.cli("diff", task_id).stdout
    watched = up.cli("watch", task_id)
    assert watched.returncode == 0
    assert "completed" in watched.stdout
    assert "\x1b" not in watched.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("--model", "replay:../demo"), 2, "unknown_recording"),
        (("--model", "no-such-model"), 2, "unknown_model"),
        (("--base-branch", "--upload-pack=x"), 2, "invalid_input"),
        (("--model", "replay:demo", "--base-branch", "nowhere"), 1, "nowhere"),
    ],
)
def test_run_says_what_is_wrong(up: Up, arguments: tuple[str, ...], code: int, error: str) -> None:
    done = up.cli("run", "--repo", up.repo.url, *arguments, "Mend it")
    assert done.returncode == code, done.stderr
    assert error in done.stderr + done.stdout


def test_interrupted_once_run_cancels_its_task(up: Up) -> None:
    *_, sleep, edit, _, _ = json.loads((RECORDINGS / "demo.json").read_text())["steps"]
    sleep["response"]["content"][1]["input"] = {"command": "sleep 300", "timeout_s": 300}
    (up.recordings / "sleeps.json").write_text(json.dumps({"version": 1, "steps": [edit, sleep]}))
    arguments = ("run", "--repo", up.repo.url, "--model", "replay:sleeps", "--json", "Sleep")
    with subprocess.Popen(
        command(*arguments),
        env={**environment(up.recordings), "FARHAND_DATA": str(up.data.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout
        for line in running.stdout:
            event = json.loads(line)
            if event["type"] == "tool_call" and event["data"]["step"] == 2:
                break
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130
    last = json.loads(out.splitlines()[-1])
    assert (last["type"], last["data"]["confirmed_dead_ms"] > 0) == ("cancelled", True)
    assert "cancelling the task" in err
    assert "+        if seconds >= size:\n" in up.cli("diff", last["task_id"]).stdout, "what it did until then is kept"


def test_term_stops_every_child_and_the_next_start_finds_everything(up: Up) -> None:
    before, url, token = up.children(), up.url, up.data.token()
    with up.client() as client:
        known = {task["id"] for task in client.tasks()}
    assert up.stop(signal.SIGTERM) == 0
    assert not [name for name, child in before.items() if child.is_alive()]
    refused = up.cli("tasks")
    assert refused.returncode == 1
    assert "(unavailable)" in refused.stderr
    up.start()
    assert (up.url, up.data.token()) == (url, token)
    with up.client() as client:
        assert {task["id"] for task in client.tasks()} == known


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_a_killed_up_leaves_nobody_behind_and_can_be_started_again(up: Up) -> None:
    before = up.children()
    assert set(before) >= set(CHILDREN)
    up.stop(signal.SIGKILL)
    up.start()
    assert not [name for name, child in before.items() if child.is_alive()]
    with up.client() as client:
        client.tasks()


def test_interrupt_stops_it_too(up: Up) -> None:
    before = up.children()
    assert up.stop(signal.SIGINT) == 0
    assert not [name for name, child in before.items() if child.is_alive()]
    up.start()
