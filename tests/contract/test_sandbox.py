"""What both kinds of sandboxes promise (`workers.sandbox.base`), tried on real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from tests.contract.conftest import DISK, MEMORY, PIDS
from tests.contract.inside import DEADLINE_S, Inside, running, unique_nap, until_running
from workers.sandbox import directory
from workers.sandbox.base import DETAIL_BYTES, KILL_S, Driver, Exit, Kind, SandboxSpec, SandboxStartError

Start = Callable[[], Inside]


def test_a_sandbox_reaches_its_link_and_runs_commands_as_its_helper(start: Start) -> None:
    inside = start()
    assert inside.run("echo hello > file && cat file") == (0, "hello\n")
    expected = directory.users().helper if inside.driver.kind == "docker" else directory.NOBODY_UID
    if os.geteuid() == 0 or inside.driver.kind == "docker":
        assert inside.run("id -u; id -g; id -G").output.split() == [str(expected)] * 3


def test_objects_that_are_linked_in_after_the_start_can_be_read_and_not_written(start: Start, run_dir: Path) -> None:
    inside = start()
    pack = run_dir / "mirror.pack"
    pack.write_text("objects")
    pack.chmod(0o444)
    os.link(pack, inside.spec.directory / "in/objects/pack/pack-1.pack")
    shared = "/farhand/in" if inside.driver.kind == "docker" else str(inside.spec.directory / "in")
    assert inside.run(f"cat {shared}/objects/pack/pack-1.pack") == (0, "objects")
    if os.geteuid() == 0 or inside.driver.kind == "docker":
        assert inside.run(f"echo x > {shared}/objects/pack/more").code != 0
        assert inside.run(f"echo x > {shared}/objects/pack/pack-1.pack").code != 0


def test_the_environment_holds_nothing_of_the_worker(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARHAND_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://secret")
    environment = start().ask(do="environment")
    assert set(environment) <= {"PATH", "LANG", "HOME", "HOSTNAME", "LC_CTYPE"}
    assert "secret" not in str(environment)


def test_waiting_tells_that_it_runs_and_then_how_it_ended(start: Start) -> None:
    inside = start()
    assert inside.sandbox.wait(0.05) is None
    seen: list[Exit | None] = []
    waiting = [threading.Thread(target=lambda: seen.append(inside.sandbox.wait(DEADLINE_S))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    inside.send(do="leave", code=7, words="x" * 10 * DETAIL_BYTES + "\nlast words\n")
    for thread in waiting:
        thread.join(DEADLINE_S)
    exit_ = inside.sandbox.wait(0)
    assert seen == [exit_] * 3
    assert exit_ is not None
    assert (exit_.code, exit_.oom) == (7, False)
    assert exit_.detail.endswith("last words")
    assert len(exit_.detail) <= DETAIL_BYTES


def test_a_sandbox_that_ends_well_has_nothing_to_tell(start: Start) -> None:
    inside = start()
    inside.send(do="leave", code=0, words="chatter")
    assert inside.sandbox.wait(DEADLINE_S) == Exit(0, False, "")


def test_one_that_another_process_has_started_is_found_and_killed(start: Start) -> None:
    inside, other = start(), start()
    driver = inside.driver
    assert driver.running() == {inside.spec.id, other.spec.id}
    found = driver.find(inside.spec)
    assert found.wait(0.05) is None
    assert inside.run("echo still there") == (0, "still there\n")
    found.kill()
    assert found.wait(0) is not None
    assert inside.sandbox.wait(DEADLINE_S) is not None
    assert driver.running() == {other.spec.id}
    found.remove()
    assert driver.leftovers() == [other.spec.id]


def test_the_end_of_one_that_was_found_is_noticed(start: Start) -> None:
    inside = start()
    found = inside.driver.find(inside.spec)
    inside.send(do="leave", code=7, words="last words\n")
    ended = found.wait(DEADLINE_S)
    assert ended is not None
    assert ended.code == (7 if inside.driver.kind == "docker" else None)  # whose child it is, learns its code
    assert ended.detail == "last words"
    assert inside.driver.running() == set()
    assert inside.driver.find(inside.spec).wait(DEADLINE_S) is not None
    inside.sandbox.remove()
    assert inside.driver.find(inside.spec).wait(DEADLINE_S) is not None


def test_killing_ends_every_process_in_time(start: Start) -> None:
    inside, nap = start(), unique_nap()
    orphans = "".join(f"({how} setsid sleep {nap} >/dev/null 2>&1 &); " for how in ("", "env -i"))
    assert inside.run(orphans).code == 0
    until_running(f"sleep\0{nap}", 2)
    started = time.monotonic()
    inside.sandbox.kill()
    assert time.monotonic() - started < KILL_S
    assert running(nap) == []
    assert running(str(inside.spec.directory)) == []
    exit_ = inside.sandbox.wait(0)
    assert exit_ is not None
    assert exit_.code == 137


def test_killing_twice_or_at_the_same_time_or_a_dead_one_does_nothing(start: Start) -> None:
    inside = start()
    threads = [threading.Thread(target=inside.sandbox.kill) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    inside.sandbox.kill()
    assert inside.sandbox.wait(0) is not None


@pytest.mark.parametrize("first", ["nothing", "kill", "exit"])
def test_removing_leaves_nothing(start: Start, driver: Driver, first: str) -> None:
    inside, nap = start(), unique_nap()
    inside.run(f"(sleep {nap} >/dev/null 2>&1 &)")
    assert driver.leftovers() == [inside.spec.id]
    if first == "kill":
        inside.sandbox.kill()
    if first == "exit":
        inside.send(do="leave", code=1, words="")
        inside.sandbox.wait(DEADLINE_S)
    inside.sandbox.remove()
    assert not inside.spec.directory.exists()
    assert driver.leftovers() == []
    assert running(nap) == []
    inside.sandbox.remove()
    driver.remove(inside.spec.id)


def test_removing_copes_with_what_a_command_has_made(start: Start) -> None:
    inside = start()
    deep = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit; i=$((i+1)); done"
    assert inside.run(f"({deep}); mkdir locked && touch locked/file && chmod 0 locked; ln -s /etc link").code == 0
    inside.sandbox.remove()
    assert not inside.spec.directory.exists()
    assert Path("/etc").is_dir()


def test_a_crashed_worker_s_sandbox_is_found_and_removed(
    kind: Kind, driver: Driver, run_dir: Path, scripted: Path
) -> None:
    nap = unique_nap()
    worker = textwrap.dedent(f"""
        import os
        from pathlib import Path
        from tests.contract.conftest import DISK, MEMORY, PIDS, DockerDriver, LocalDriver, make_settings
        from tests.contract.inside import Inside
        from workers.sandbox import directory
        settings = make_settings(database_url="", redis_url="", run_dir=Path({str(run_dir)!r}), sandbox_pids=PIDS,
                                 sandbox_memory_bytes=MEMORY, sandbox_disk_bytes=DISK)
        driver = {"DockerDriver" if kind == "docker" else "LocalDriver"}(settings)
        inside = Inside(driver, directory.make(settings.run_dir, directory.new_sandbox_id()), Path({str(scripted)!r}))
        inside.start()
        inside.run("(setsid sleep {nap} >/dev/null 2>&1 &)")
        print(inside.spec.id, flush=True)
        os.kill(os.getpid(), 9)
    """)
    crashed = subprocess.run(
        [sys.executable, "-c", worker], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert crashed.returncode == -9, crashed.stderr
    assert driver.leftovers() == [crashed.stdout.strip()]
    driver.remove(crashed.stdout.strip())
    assert driver.leftovers() == []
    assert running(nap) == []


def test_a_directory_without_a_sandbox_is_a_leftover(driver: Driver, run_dir: Path) -> None:
    path = directory.make(run_dir, "abc")
    assert driver.leftovers() == ["abc"]
    driver.remove("abc")
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-rf", "A", "x" * 49])
def test_an_id_that_is_none_is_refused(driver: Driver, name: str) -> None:
    with pytest.raises(ValueError, match="not a sandbox id"):
        driver.remove(name)


def test_a_sandbox_that_is_removed_while_it_starts_is_not_left(driver: Driver, run_dir: Path, scripted: Path) -> None:
    for _ in range(4):
        path = directory.make(run_dir, directory.new_sandbox_id())
        remover = threading.Thread(target=driver.remove, args=(path.name,))
        remover.start()
        try:
            driver.start(SandboxSpec(path.name, path, scripted))
        except SandboxStartError:
            pass
        finally:
            remover.join(DEADLINE_S)
    assert driver.leftovers() == []
    assert running(str(run_dir)) == []


def test_a_sandbox_cannot_start_without_its_directory(driver: Driver, run_dir: Path, scripted: Path) -> None:
    with pytest.raises(SandboxStartError) as refused:
        driver.start(SandboxSpec("gone", run_dir / "s/gone", scripted))
    assert refused.value.code == "sandbox_start_failed"
    assert refused.value.hint
    assert driver.leftovers() == []


def test_memory_is_bounded_and_costs_only_the_command(start: Start) -> None:
    inside = start()
    eat = f"python3 -c 'x = bytearray({2 * MEMORY}); print(len(x))'"
    assert inside.run(eat).code != 0
    assert inside.run("echo alive") == (0, "alive\n")
    assert inside.sandbox.wait(0) is None


def test_processes_are_bounded_and_the_sandbox_survives_a_fork_bomb(start: Start) -> None:
    inside, nap = start(), unique_nap()
    spawn = f"for i in $(seq {3 * PIDS}); do sleep {nap} >/dev/null 2>&1 & done"
    assert "fork" in inside.run(spawn, timeout=10).output.lower()
    assert len(running(f"sleep\0{nap}")) <= PIDS
    inside.send(do="run", command="bomb() { bomb | bomb & }; bomb; sleep 2", user="helper", timeout=2)
    started = time.monotonic()
    inside.sandbox.kill()
    assert time.monotonic() - started < KILL_S
    assert running(nap) == []


def test_a_full_disk_is_an_error_of_the_command(start: Start) -> None:
    inside = start()
    full = inside.run(f"head -c {2 * DISK} /dev/zero > big")
    assert full.code != 0
    inside.run("rm -f big")
    assert inside.run("echo again > small && cat small") == (0, "again\n")


def test_open_files_are_bounded_and_nothing_dumps_its_memory(start: Start) -> None:
    files, core = start().run("ulimit -Hn; ulimit -Hc").output.split()
    assert int(files) <= 16_384
    assert core == "0"


def test_a_worker_under_gevent_goes_on_while_a_sandbox_starts_and_runs(
    kind: Kind, driver: Driver, run_dir: Path, scripted: Path
) -> None:
    worker = textwrap.dedent(f"""
        from gevent import monkey; monkey.patch_all()
        import time, gevent
        from pathlib import Path
        from tests.contract.conftest import DockerDriver, LocalDriver, make_settings
        from tests.contract.inside import Inside
        from workers.sandbox import directory
        settings = make_settings(database_url="", redis_url="", run_dir=Path({str(run_dir)!r}))
        driver = {"DockerDriver" if kind == "docker" else "LocalDriver"}(settings)
        gaps = [0.0]
        def tick():
            while True:
                before = time.monotonic()
                gevent.sleep(0.01)
                gaps.append(time.monotonic() - before)
        ticker = gevent.spawn(tick)
        inside = Inside(driver, directory.make(settings.run_dir, directory.new_sandbox_id()), Path({str(scripted)!r}))
        inside.start()
        assert inside.run("echo hello").output == "hello\\n"
        assert inside.sandbox.wait(0.1) is None
        inside.sandbox.kill()
        assert inside.sandbox.wait(1).code == 137
        inside.sandbox.remove()
        inside.close()
        driver.close()
        assert len(gaps) > 10, gaps
        print("longest pause:", max(gaps))
        assert max(gaps) < 1.0, gaps
    """)
    done = subprocess.run(
        [sys.executable, "-c", worker], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert driver.leftovers() == []


def test_too_long_a_run_directory_is_refused_with_what_to_do(run_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="FARHAND_RUN_DIR is too long") as refused:
        directory.make(run_dir / ("x" * 100), "abc")
    assert refused.value.code == "run_dir_too_long"
    assert not (run_dir / ("x" * 100)).exists()


def test_the_longest_run_directory_that_is_accepted_can_be_listened_in(run_dir: Path) -> None:
    """The check and the kernel agree."""
    from tests.contract.inside import listen

    rest = directory.SOCKET_PATH_BYTES - len(os.fsencode(run_dir / "s/abc/link/host.sock")) - 1
    listen(directory.make(run_dir / ("x" * rest), "abc")).close()
    with pytest.raises(ConfigurationError):
        directory.make(run_dir / ("x" * (rest + 1)), "abc")
