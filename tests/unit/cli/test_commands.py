"""The command line as a newcomer meets it: help, and what is said when something is missing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent_runtime.tools import TOOLS, refusal
from infra import cli
from infra.cli.data_dir import DataDir
from infra.cli.sample_repo import SampleRepo
from infra.demo import PROMPT, RECORDINGS, SAMPLE
from tests.bench.__main__ import BENCHMARKS


def farhand(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=environment, prog_name="farhand")


@pytest.mark.parametrize("command", [name for name in cli._COMMANDS if name not in ("image", "chaos")])
def test_every_command_explains_itself(command: str) -> None:
    shown = farhand(command, "--help")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: farhand {command}")


def test_what_bench_passes_on_is_in_its_help() -> None:
    shown = farhand("bench", "--help").output
    assert "--json" in shown
    assert set(BENCHMARKS) <= set(re.findall(r"\w+", shown))


def test_test_passes_on_to_pytest() -> None:
    arguments = ("test", "--", "--version")
    command = [sys.executable, "-m", "infra.cli", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.stdout.startswith("pytest ")


def test_help_lists_every_command() -> None:
    shown = farhand("--help").output
    assert all(f"\n  {name} " in shown for name in cli._COMMANDS)
    assert "...\n" not in shown.partition("Commands:")[2], "a summary that does not fit its line"


def test_without_a_deployment(tmp_path: Path) -> None:
    said = farhand("tasks", "--data", str(tmp_path))
    assert said.exit_code == 2
    assert said.stderr == (
        f"error: no server is named, and none was started in {tmp_path} (no_server)\n"
        "  Start one here with `farhand up`, or name one with --server and --token (FARHAND_SERVER, FARHAND_TOKEN).\n"
    )


def test_a_server_without_a_token_and_the_local_token_is_not_sent_there(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.token_file.write_text("secret\n")
    data.address_file.write_text("http://127.0.0.1:1\n")
    said = farhand("tasks", "--data", str(tmp_path), "--server", "http://127.0.0.1:2")
    assert said.exit_code == 2
    assert "there is no token for http://127.0.0.1:2 (no_token)" in said.stderr


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    said = farhand("tasks", FARHAND_SERVER=address, FARHAND_TOKEN="x")
    assert said.exit_code == 1
    assert f"nothing answers at {address}" in said.stderr
    assert "farhand up" in said.stderr


def test_what_is_no_server() -> None:
    said = farhand("tasks", "--server", "localhost:80", "--token", "x")
    assert said.exit_code == 2
    assert "(server_invalid)" in said.stderr


@pytest.mark.parametrize(
    "arguments", [("run",), ("run", "prompt"), ("run", "--repo", "u", "--budget", "0", "p"), ("?",), ("show", "one")]
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert farhand(*arguments).exit_code == 2


def test_a_wrong_setting_is_named_before_anything_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "FARHAND_WORKER_SLOTS": "many", "FARHAND_SANDBOX": "cloud"}
    command = [sys.executable, "-m", "infra.cli", "up", "--data", str(tmp_path / "data")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "FARHAND_WORKER_SLOTS" in said.stderr
    assert "FARHAND_SANDBOX" in said.stderr
    assert not (tmp_path / "data/postgres").exists()


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("FARHAND_DATABASE_URL", "nonsense", 2),
        ("FARHAND_DATABASE_URL", "postgresql://127.0.0.1:port/farhand", 2),
        ("FARHAND_REDIS_URL", "127.0.0.1:6379", 2),
        ("FARHAND_SECRET_KEYS", "short", 2),
        ("FARHAND_REDIS_URL", "redis://127.0.0.1:1/0", 1),
    ],
)
@pytest.mark.parametrize("command", ["up", "doctor"])
def test_an_address_or_key_that_cannot_be_used_is_named_at_once(
    tmp_path: Path, command: str, setting: str, value: str, code: int
) -> None:
    given = {"FARHAND_DATABASE_URL": "postgresql://127.0.0.1:1/farhand", setting: value}
    arguments = [sys.executable, "-m", "infra.cli", command, "--data", str(tmp_path / "data")]
    said = subprocess.run(
        arguments, env={**os.environ, **given}, capture_output=True, text=True, check=False, timeout=60
    )
    assert setting in said.stdout + said.stderr
    assert "Traceback" not in said.stderr
    assert said.returncode in {code, 1} if command == "doctor" else said.returncode == code


@pytest.mark.parametrize("command", ["api", "gateway", "worker"])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "FARHAND_DATABASE_URL and FARHAND_REDIS_URL"),
        ({"FARHAND_DATABASE_URL": "nonsense"}, "FARHAND_DATABASE_URL"),
        ({"FARHAND_DATABASE_URL": "postgresql://127.0.0.1:1/farhand"}, "FARHAND_REDIS_URL"),
        (
            {"FARHAND_DATABASE_URL": "postgresql://127.0.0.1:1/x", "FARHAND_REDIS_URL": "redis://127.0.0.1:1/0"},
            "FARHAND_SECRET_KEYS",
        ),
    ],
    ids=["nothing", "nonsense", "no Redis", "no keys"],
)
def test_a_service_without_a_setting_says_which(command: str, given: dict[str, str], named: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FARHAND_")}
    said = subprocess.run(  # a process of its own: the command would become the service
        [sys.executable, "-m", "infra.cli", command],
        env={**clean, **given}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert said.returncode == 2
    assert named in said.stderr
    _, hint = said.stderr.strip().splitlines()
    assert hint.startswith("  ")


def test_data_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()  # root may write anywhere, but not open a directory as a file
    said = farhand("up", "--data", str(tmp_path))
    assert said.exit_code == 2
    assert f"{tmp_path} can't be written" in said.stderr


def test_a_pid_file_that_a_killed_postgres_left_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/postmaster.pid").touch()
    said = farhand("doctor", "--data", str(tmp_path), FARHAND_RUN_DIR=str(tmp_path / "run"))
    assert "! the embedded Postgres is not running" in said.output


def test_interrupted_before_there_is_anything_to_watch_it_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.cli.options.connect", interrupted)
    said = farhand("run", "--repo", "https://git.example/repo", "p", "--data", str(tmp_path))
    assert said.exit_code == 130
    assert "farhand: interrupted" in said.stderr


def test_token_prints_the_local_one(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("fh_local\n")
    assert farhand("token", "--data", str(tmp_path)).output == "fh_local\n"


def test_the_recorded_agent_mends_the_sample(tmp_path: Path) -> None:
    """Its tool calls are ones that agents have, and its edit turns the sample's test from red to green."""
    recording = json.loads((RECORDINGS / "demo.json").read_text())
    assert recording["prompt"] == PROMPT
    blocks = [block for step in recording["steps"] for block in step["response"]["content"]]
    calls = [block for block in blocks if block["type"] == "tool_use"]
    assert [refusal(call["name"], call["input"], list(TOOLS)) for call in calls] == [None] * len(calls)
    assert len({call["id"] for call in calls}) == len(calls)

    repo = SampleRepo(tmp_path)
    repo.make()
    assert not repo.test("main").passed
    (edit,) = (call["input"] for call in calls if call["name"] == "edit_file")
    before = (SAMPLE / f"{edit['path']}.sample").read_text()
    assert before.count(edit["old"]) == 1
    (tmp_path / edit["path"]).write_text(before.replace(edit["old"], edit["new"]))
    (tmp_path / "test_durations.py").write_text((SAMPLE / "test_durations.py.sample").read_text())
    subprocess.run([sys.executable, "-B", "-m", "unittest"], cwd=tmp_path, capture_output=True, check=True)
