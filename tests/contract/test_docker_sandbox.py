"""What only a container promises: nothing to reach, nothing to gain, and an engine that may be away."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.errors import ConfigurationError, TaskFailedError, UnavailableError
from infra.settings import Settings
from tests.contract.engine_proxy import EngineProxy
from tests.contract.inside import DEADLINE_S, Inside, running, unique_nap
from workers.sandbox import directory
from workers.sandbox.base import EngineUnavailableError, ImageMissingError, Kind, SandboxSpec, SandboxStartError
from workers.sandbox.choose import choose_driver
from workers.sandbox.docker import KILL_TIMEOUT_S, DockerDriver

pytestmark = pytest.mark.docker

Start = Callable[[], Inside]


@pytest.fixture(params=["docker"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


def test_there_is_no_network_but_loopback(start: Start) -> None:
    inside = start()
    assert inside.run("ls /sys/class/net").output.split() == ["lo"]
    assert inside.run("cat /proc/net/route").output.count("\n") == 1
    serve = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert inside.run(f'python3 -c "{serve}"').code == 0, "loopback itself works"
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    assert "unreachable" in inside.run(f'python3 -c "{reach}"').output


def test_the_root_cannot_be_written_not_even_by_the_first_process(start: Start) -> None:
    inside = start()
    for user, path in itertools.product(("first", "helper"), ("/x", "/etc/x", "/farhand/x", "/farhand/runtime/x")):
        assert inside.run(f"touch {path}", user=user).code != 0, (user, path)
    assert inside.run("touch /tmp/x /farhand/work/x /dev/shm/x").code == 0


def test_temporary_files_are_bounded_too(start: Start) -> None:
    inside = start()
    for place in ("/tmp", "/dev/shm"):
        full = inside.run(f"head -c 200M /dev/zero > {place}/big; code=$?; rm -f {place}/big; exit $code")
        assert full.code != 0
        assert "No space left" in full.output
    many = "for i in range(10**6): open(f'file-{i}', 'x').close()"
    assert "No space left" in inside.run(f'python3 -c "{many}"').output


def test_commands_have_no_capability_and_cannot_gain_any(start: Start) -> None:
    inside = start()
    status = dict(line.split(":\t") for line in inside.run("cat /proc/self/status").output.splitlines())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    held = {line.split()[1] for line in inside.run("grep Cap /proc/self/status", user="first").output.splitlines()}
    setuid_setgid_kill = f"{1 << 7 | 1 << 6 | 1 << 5:016x}"
    assert held == {setuid_setgid_kill, "0" * 16}
    assert inside.run("unshare --user --map-root-user true").code != 0
    assert inside.run("mount -t tmpfs none /tmp").code != 0
    assert inside.run("mknod device b 8 0").code != 0
    assert inside.run("cp /bin/sh s && chmod u+s s && ./s -pc 'id -u'").output.strip() == str(directory.HELPER_UID)


def test_commands_cannot_open_the_link(start: Start) -> None:
    inside = start()
    assert inside.run("ls /farhand/link").code != 0
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/farhand/link/host.sock')"
    assert "Permission denied" in inside.run(f'python3 -c "{connect}"').output
    assert inside.run(f'python3 -c "{connect}"', user="loop").code == 0
    for user in ("loop", "helper", "first"):
        assert inside.run("touch /farhand/link/x || rm /farhand/link/host.sock", user=user).code != 0, user


def test_commands_see_nothing_of_the_processes_that_start_them(start: Start) -> None:
    inside = start()
    owners = inside.run("stat -c '%u %n' /proc/[0-9]*").output.splitlines()
    others = [line.split()[1] for line in owners if not line.startswith(f"{directory.HELPER_UID} ")]
    assert len(others) == 2, "the first process and the loop"
    for process, what in itertools.product(others, ("environ", "fd/0", "mem", "root/")):
        assert "Permission denied" in inside.run(f"head -c 1 {process}/{what}").output
        assert inside.run(f"kill -0 {process.removeprefix('/proc/')}").code != 0


def test_a_command_that_kills_all_it_can_costs_only_the_helper(start: Start) -> None:
    inside = start()
    inside.run("kill -9 -1")
    assert inside.run("echo alive") == (0, "alive\n")
    assert inside.sandbox.wait(0) is None


def test_running_out_of_memory_as_a_whole_is_told(start: Start) -> None:
    inside = start()
    inside.send(do="eat")
    exit_ = inside.sandbox.wait(DEADLINE_S)
    assert exit_ is not None
    assert (exit_.code, exit_.oom) == (137, True)


def test_files_count_as_memory_and_cannot_take_the_host_s(start: Start) -> None:
    limits = json.loads(_inspect(start()))[0]["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] > 0
    assert limits["PidsLimit"] > 0
    assert limits["NanoCpus"] > 0


def test_a_container_says_nothing_but_deployment_and_sandbox(start: Start) -> None:
    inside = start()
    container = json.loads(_inspect(inside))[0]
    assert set(container["Config"]["Labels"]) == {"farhand.deployment", "farhand.sandbox"}
    assert container["Config"]["Labels"]["farhand.sandbox"] == inside.spec.id
    assert container["Config"]["Env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
    ]


def test_two_deployments_on_one_engine_do_not_see_each_other(
    start: Start, small: Settings, tmp_path: Path, scripted: Path
) -> None:
    inside = start()
    other = DockerDriver(small.model_copy(update={"run_dir": tmp_path}))
    try:
        assert other.leftovers() == []
        other.remove(inside.spec.id)
        assert inside.run("echo alive").output == "alive\n"
    finally:
        other.close()


def test_a_missing_image_is_told_with_what_to_do(small: Settings, scripted: Path) -> None:
    driver = DockerDriver(small.model_copy(update={"agent_image": "farhand-no-such-image:1"}))
    try:
        with pytest.raises(ImageMissingError, match="farhand-no-such-image:1") as refused:
            driver.start(_spec(small.run_dir, scripted))
        assert isinstance(refused.value, TaskFailedError)
        assert refused.value.code == "image_missing"
        assert "farhand image" in refused.value.hint
        with pytest.raises(ConfigurationError) as wrong:
            driver.check()
        assert (wrong.value.code, wrong.value.hint) == ("image_missing", refused.value.hint)
    finally:
        driver.close()


def test_a_runtime_that_the_engine_does_not_have_is_told(small: Settings, scripted: Path) -> None:
    driver = DockerDriver(small.model_copy(update={"container_runtime": "no-such-runtime"}))
    try:
        spec = _spec(small.run_dir, scripted)
        with pytest.raises(SandboxStartError, match="no-such-runtime"):
            driver.start(spec)
        driver.remove(spec.id)
        assert driver.leftovers() == []
    finally:
        driver.close()


def test_an_engine_that_is_not_running_is_worth_another_try(
    small: Settings, scripted: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{run_dir}/nobody.sock")
    driver = DockerDriver(small)
    spec = _spec(run_dir, scripted)
    for call in (lambda: driver.start(spec), driver.leftovers, lambda: driver.remove(spec.id)):
        with pytest.raises(EngineUnavailableError, match="does not answer") as refused:
            call()
        assert isinstance(refused.value, UnavailableError)
        assert refused.value.code == "engine_unavailable"
        assert "docker version" in refused.value.hint
    assert not spec.directory.exists(), "files are removed even so"
    with pytest.raises(ConfigurationError) as wrong:
        driver.check()
    assert wrong.value.code == "engine_unavailable"


def test_auto_is_docker_where_an_engine_has_the_image(
    small: Settings, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    auto = small.model_copy(update={"sandbox": "auto"})
    with_engine = choose_driver(auto)
    with_engine.close()
    assert with_engine.kind == "docker"
    assert choose_driver(auto.model_copy(update={"agent_image": "farhand-no-such-image:1"})).kind == "local"
    assert "farhand image" in caplog.text
    assert "isolates nothing" in caplog.text
    monkeypatch.setenv("DOCKER_HOST", f"unix://{run_dir}/nobody.sock")
    assert choose_driver(auto).kind == "local"
    assert choose_driver(small.model_copy(update={"sandbox": "docker"})).kind == "docker", "named: not second-guessed"
    assert choose_driver(small.model_copy(update={"sandbox": "local"})).kind == "local"


@pytest.fixture
def engine(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProxy]:
    """The real engine behind a door that a test can shut."""
    proxy = EngineProxy(run_dir / "engine.sock")
    proxy.open()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{proxy.path}")
    yield proxy
    proxy.shut()


def test_a_sandbox_is_watched_through_a_restart_of_the_engine(
    engine: EngineProxy, driver: DockerDriver, start: Start
) -> None:
    inside = start()
    with engine.away():
        assert inside.run("echo alive").output == "alive\n"
        assert inside.sandbox.wait(0) is None
    inside.send(do="leave", code=9, words="words")
    exit_ = inside.sandbox.wait(DEADLINE_S)
    assert exit_ is not None
    assert (exit_.code, exit_.detail) == (9, "words")


def test_a_kill_that_cannot_be_confirmed_is_never_passed_off_as_done(engine: EngineProxy, start: Start) -> None:
    inside, nap = start(), unique_nap()
    started = "while ! grep -aq ^sleep /proc/$!/cmdline; do :; done"
    inside.run(f"(sleep {nap} >/dev/null 2>&1 & {started})")
    with engine.away():
        with pytest.raises(EngineUnavailableError):
            inside.sandbox.kill()
        assert len(running(f"sleep\0{nap}")) == 1
    inside.sandbox.kill()
    assert running(nap) == []


def test_an_engine_that_hangs_holds_nobody_up_for_long(engine: EngineProxy, start: Start) -> None:
    inside = start()
    engine.shut()
    engine.open(silent=True)
    started = time.monotonic()
    try:
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            inside.sandbox.kill()
        assert time.monotonic() - started < KILL_TIMEOUT_S + 2
    finally:
        engine.shut()
        engine.open()


def _spec(run_dir: Path, bundle: Path) -> SandboxSpec:
    path = directory.make(run_dir, directory.new_sandbox_id())
    return SandboxSpec(path.name, path, bundle)


def _inspect(inside: Inside) -> str:
    find = ["docker", "ps", "-q", "--filter", f"label=farhand.sandbox={inside.spec.id}"]
    container = subprocess.run(find, capture_output=True, text=True, check=True, env=os.environ).stdout.strip()
    return subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
