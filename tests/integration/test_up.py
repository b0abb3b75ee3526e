"""`farhand up`, and the commands that talk to it, as a user starts them: real processes on every side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.crypto import KeyRing
from infra.demo import PROMPT, RECORDINGS
from infra.embedded.postgres import url_at
from tests.integration.local_up import DEADLINE_S, Up, answers, command, environment, until

pytestmark = pytest.mark.slow

CHILDREN = ("postgres", "redis", "api", "worker1")


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


def test_every_verb_of_a_user_prints_nothing_but_json_when_asked(up: Up) -> None:
    def told(*arguments: str) -> list[dict[str, Any]]:
        done = up.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    (sent,) = told("run", "--repo", up.repo.url, "--model", "replay:demo", "--no-wait", PROMPT)
    assert [event["type"] for event in told("watch", sent["id"])][-1] == "completed"
    (shown,) = told("show", sent["id"])
    assert shown in told("tasks")
    assert shown in told("tasks", "--status", "completed")
    assert shown not in told("tasks", "--status", "failed")
    (diff,) = told("diff", sent["id"])
    assert (diff["files_changed"], diff["insertions"], diff["head_sha"]) == (1, 1, shown["head_sha"])
    assert diff["diff"] == up.cli("diff", sent["id"]).stdout
    assert told("cancel", sent["id"]) == [shown], "it has ended already"
    assert told("egress", sent["id"]) == []
    assert told("token") == [{"token": up.data.token()}]
    assert "ok" in {finding["verdict"] for finding in told("doctor")}
    refused = up.cli("pr", sent["id"], "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "error: " in refused.stderr


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


def test_a_new_key_in_front_of_the_ring_takes_over_what_is_stored(up: Up) -> None:
    with up.client() as client:
        client.create_project(repo_url="https://example.com/owner/private", git_token="a-git-token")
    assert up.stop(signal.SIGTERM) == 0
    ring, new = up.data.path / "secret-keys", "a-new-key-" + "0" * 32
    ring.write_text(f"{new},{ring.read_text()}")
    up.start()
    until(lambda: "every stored secret is under the first key" in up.log("worker1"))
    with psycopg.connect(url_at(up.data.run_dir() / "pg")) as connection:
        (sealed,) = connection.execute(
            "select git_token_encrypted from projects where git_token_encrypted is not null"
        ).fetchone() or (b"",)
    assert KeyRing((new,)).decrypt(sealed) == "a-git-token", "the old key can go"


def test_interrupt_stops_it_too(up: Up) -> None:
    before = up.children()
    assert up.stop(signal.SIGINT) == 0
    assert not [name for name, child in before.items() if child.is_alive()]
    up.start()
