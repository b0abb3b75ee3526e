"""Attacks on what there is only so much of. Each costs the command that made it, at worst the helper; never the task.

`docker` only where a limit is the container's: `local` bounds one process and one file at a time, and its list in
SECURITY.md says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.security.conftest import DISK, MEMORY, PIDS
from tests.security.lair import Lair
from tests.unit.runtime.linkserver import LinkServer
from workers.sandbox.base import Kind

ENDED = "every process in it was killed"


@pytest.fixture(scope="module")
def bombed(kind: Kind, make_lair: Callable[[Kind], Lair]) -> Lair:
    """A sandbox of its own, so that what a bomb leaves behind is not taken for the doing of another attack."""
    return make_lair(kind)


@pytest.fixture
def container(bombed: Lair, only_docker: None) -> Lair:
    return bombed


def recovers(lair: Lair) -> bool:
    """The very bombs may still be falling when the next command is asked for; it may cost one more helper."""
    return any("alive" in lair.run("echo alive") for _ in range(3)) and lair.is_alive()


def test_a_fork_bomb(kind: Kind, make_lair: Callable[[Kind], Lair], lair: Lair) -> None:
    """In a sandbox of its own, as it goes on after its command has ended: until the sandbox is full, or gone."""
    target = make_lair(kind)
    said = target.run("bomb() { bomb | bomb & }; bomb; sleep 1", timeout_s=5)
    assert "fork" in said or ENDED in said or "[exit code 0]" in said, said
    assert any("alive\n[exit code 0]" in target.run("echo alive", timeout_s=5) for _ in range(20))
    assert target.sandbox.wait(0) is None
    if kind == "docker":
        assert lair.is_alive(), "its neighbour noticed nothing"
    target.close()


def test_a_bomb_of_threads(bombed: Lair) -> None:
    script = f"""
import threading
event, threads = threading.Event(), []
try:
    for _ in range({4 * PIDS}):
        threads.append(threading.Thread(target=event.wait, daemon=True))
        threads[-1].start()
    OUTCOMES["all"] = "done"
except RuntimeError as error:
    OUTCOMES["after"] = str(len(threads))
"""
    outcomes = bombed.attack(script)
    assert "all" not in outcomes
    # In `local` the kernel counts by user: what other sandboxes ran when this one was started is on top.
    assert 0 < int(outcomes["after"]) <= (PIDS if bombed.kind == "docker" else 4 * PIDS)
    assert recovers(bombed)


def test_a_bomb_of_memory(bombed: Lair) -> None:
    said = bombed.run(f"python3 -c 'x = bytearray({2 * MEMORY}); print(len(x))'")
    assert str(2 * MEMORY) not in said
    assert recovers(bombed)


@pytest.mark.parametrize(
    ("kept", "code"),
    [
        ("shared memory", "import mmap; m = mmap.mmap(-1, 1 << 20); m.write(piece); kept.append(m)"),
        ("memory files", "f = os.memfd_create('x'); os.write(f, piece); kept.append(f)"),
        ("sockets", "a, b = socket.socketpair(); a.setblocking(0); kept.append((a, b)); a.send(piece)"),
    ],
)
def test_a_bomb_of_memory_that_belongs_to_no_process(container: Lair, kept: str, code: str) -> None:
    """Twice what the sandbox has: the kernel counts it as the sandbox's, and kills there."""
    pieces = 2 * MEMORY >> 20 if kept != "sockets" else 12_000
    bomb = (
        "import os, socket; piece = bytes(1 << 20); kept = []\n"
        "open('/proc/self/oom_score_adj', 'w').write('1000')\n"
        f"for n in range({pieces}): {code}\nprint('GOT', 'THROUGH')"
    )
    said = container.run(f"python3 - <<'END'\n{bomb}\nEND")
    assert "GOT THROUGH" not in said, said
    assert recovers(container)


def test_a_bomb_of_pipes(container: Lair) -> None:
    """A user's pipes are bounded by the kernel; what they hold is the sandbox's memory."""
    bomb = """
import os, fcntl
kept = []
for n in range(20_000):
    r, w = os.pipe()
    os.set_blocking(w, False)
    os.write(w, bytes(1 << 16))
    kept.append((r, w))
print('GOT', 'THROUGH')
"""
    assert "GOT THROUGH" not in container.run(f"python3 - <<'END'\n{bomb}\nEND")
    assert recovers(container)


def test_a_bomb_of_cached_files(container: Lair) -> None:
    """What is only cached is dropped when memory is short: that is no bomb, and is not to become one."""
    said = container.run("for i in $(seq 5); do cat /usr/lib/git-core/* /usr/bin/* > /dev/null; done; echo read all")
    assert "read all\n[exit code 0]" in said
    assert recovers(container)


@pytest.mark.parametrize("place", [".", "/tmp", "/dev/shm"])
def test_a_bomb_of_disk(container: Lair, place: str) -> None:
    said = container.run(f"head -c {4 * DISK} /dev/zero > {place}/big; code=$?; rm -f {place}/big; exit $code")
    assert "No space left on device" in said or "killed" in said, said
    assert recovers(container)


def test_a_bomb_of_one_file(bombed: Lair) -> None:
    said = bombed.run(f"head -c {2 * DISK} /dev/zero > big; code=$?; rm -f big; exit $code")
    assert "[exit code 0]" not in said, said
    assert recovers(bombed)


def test_a_bomb_of_inodes(container: Lair) -> None:
    script = "import os; os.mkdir('many'); [open(f'many/{n}', 'x').close() for n in range(10**6)]"
    said = container.run(f'python3 -c "{script}"; rm -rf many')
    assert "No space left on device" in said, said
    assert recovers(container)


def test_a_bomb_of_open_files(bombed: Lair) -> None:
    script = """
kept = []
def open_all():
    for _ in range(40_000):
        kept.append(os.open("/dev/null", os.O_RDONLY))
tried("open", open_all)
opened = len(kept)
for descriptor in kept:
    os.close(descriptor)
OUTCOMES["opened"] = str(opened)
"""
    outcomes = bombed.attack(script)
    assert outcomes["open"] == "EMFILE"
    assert int(outcomes["opened"]) <= 16_384
    assert recovers(bombed)


def test_a_bomb_of_output(bombed: Lair) -> None:
    """A gigabyte, of which the model and the worker see the ends."""
    said = bombed.run("yes | head -c 1000000000")
    assert len(said) < 60_000
    assert "[exit code 0]" in said
    assert bombed.link.results[-1]["truncated"] is True
    assert recovers(bombed)


def test_a_directory_without_bottom(bombed: Lair) -> None:
    said = bombed.run("for i in $(seq 250); do mkdir d && cd d || exit; done; touch file; echo made it")
    assert "made it" in said
    assert recovers(bombed)
    assert "[exit code 0]" in bombed.run("rm -rf d")


def test_more_files_than_can_be_kept(bombed: Lair) -> None:
    """All of them new, with contents that do not shrink: left out and named, instead of sent."""
    script = "import os; os.mkdir('heap'); [open(f'heap/{n}', 'wb').write(os.urandom(8000)) for n in range(1100)]"
    said = bombed.run(f'python3 -c "{script}"')
    sent = len(bombed.link.packs[-1])
    assert "heap" in said, said
    assert "not kept" in said, said
    assert sent < 8 << 20
    bombed.run("rm -rf heap")
    assert recovers(bombed)


def test_a_file_that_is_too_large_to_be_kept(bombed: Lair) -> None:
    said = bombed.run("head -c 2000000 /dev/urandom > heavy")
    assert re.search(r"not kept .*heavy \(2000000 bytes", said), said
    bombed.run("rm heavy")
    assert recovers(bombed)


def test_a_command_without_end(bombed: Lair) -> None:
    assert "[timeout:" in bombed.run("trap '' TERM INT HUP; while :; do :; done", timeout_s=0.5)
    assert recovers(bombed)


def test_a_loop_of_the_processor_is_held_to_its_share(container: Lair) -> None:
    """The limit is the engine's; here it is looked up where the kernel says it."""
    quota = container.run("cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null").split()[0]
    assert int(quota) == 200_000, "two processors, in microseconds of each tenth of a second"


def test_a_command_that_outlives_its_call_ends_with_the_sandbox(kind: Kind, make_lair: Callable[[Kind], Lair]) -> None:
    from tests.contract.inside import running, unique_nap, until_running

    lair, nap = make_lair(kind), unique_nap()
    lair.run(f"setsid nohup sleep {nap} >/dev/null 2>&1 &")
    until_running(f"sleep\0{nap}", 1)
    lair.close()
    assert running(nap) == []
    assert not os.path.lexists(lair.path)


def test_the_link_is_still_the_same(bombed: Lair) -> None:
    """After all of this, the loop has asked for each step once, and told each result once."""
    link: LinkServer = bombed.link
    told = [(result["step"], result["index"]) for result in link.results]
    assert len(told) == len(set(told)) == len(link.calls)
