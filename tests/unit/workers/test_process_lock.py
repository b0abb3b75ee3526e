"""Locks of worker processes: held for as long as a process lives, and what they say survives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import UUID

from workers.process_lock import first_free_lock, locks_of_the_dead

ONE, TWO = UUID(int=1), UUID(int=2)
HOLD = """
import sys
from pathlib import Path
from uuid import UUID
from workers.process_lock import first_free_lock
lock = first_free_lock(Path(sys.argv[1]))
lock.name(*(UUID(text) for text in sys.argv[2:]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(run_dir: Path, *workers: UUID) -> subprocess.Popen[str]:
    """Another process, once it has a lock."""
    command = [sys.executable, "-c", HOLD, str(run_dir), *map(str, workers)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_next_process_learns_whom_it_succeeds(tmp_path: Path) -> None:
    kill(holder(tmp_path, ONE, TWO))
    lock = first_free_lock(tmp_path)
    assert lock.predecessors == [ONE, TWO]
    lock.name(ONE)
    lock.give_up()
    assert first_free_lock(tmp_path).predecessors == [ONE]


def test_the_living_have_no_heirs(tmp_path: Path) -> None:
    process = holder(tmp_path, ONE)
    try:
        assert list(locks_of_the_dead(tmp_path)) == []
        assert first_free_lock(tmp_path).predecessors == []
    finally:
        kill(process)


def test_a_sibling_finds_the_dead_and_forgets_those_without_anything_left(tmp_path: Path) -> None:
    first, second = holder(tmp_path, ONE), holder(tmp_path, TWO)
    own = first_free_lock(tmp_path)
    own.name(UUID(int=3))
    kill(second)
    assert [lock.predecessors for lock in locks_of_the_dead(tmp_path)] == [[TWO]]
    kill(first)
    for lock in locks_of_the_dead(tmp_path):
        assert first_free_lock(tmp_path).predecessors != lock.predecessors  # nobody else has it meanwhile
        lock.name()
    assert list(locks_of_the_dead(tmp_path)) == []


def test_a_lock_that_says_nothing_sensible_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "0.lock").write_text(f"nonsense\n{ONE}\n{TWO.hex[:7]}")
    assert first_free_lock(tmp_path).predecessors == [ONE]
