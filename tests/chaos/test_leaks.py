"""A worker that has run many attempts holds no more than before. What else could be left, every test here checks."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.stage import Stage, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

ATTEMPTS = 6
ENGINE_CONNECTIONS = 60
"""Docker's SDK keeps one for each of the last 25 addresses that it asked, in each of our two clients of the engine."""


def test_attempts_leave_no_files_or_sockets_open(stage: Stage) -> None:
    worker = stage.worker()
    for task in [stage.submit("plain") for _ in range(ATTEMPTS)]:
        task.end()  # opens what is kept open: pools of connections, as many as attempts that run at a time need
    before = _open_files(worker)
    for task in [stage.submit("plain") for _ in range(ATTEMPTS)]:
        task.end()
        # However short the lease is, its heartbeats are shorter.
        assert stage.rows("select id from workers where swept_at is null and alive_until < now()") == []
    assert stage.worker() == worker
    # A pool may have grown by a connection or two; a leak would be one for each attempt at least.
    bound = before["ours"] + ATTEMPTS // 2
    eventually(lambda: _open_files(worker)["ours"] <= bound, f"at most {bound} of {_open_files(worker)}", 15)
    assert _open_files(worker)["engine"] < ENGINE_CONNECTIONS


def _open_files(pid: int) -> Counter[str]:
    """How many files and sockets a process has open: to the engine (Unix sockets without a name), and all others."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    nameless = {f"socket:[{fields[6]}]" for fields in lines if len(fields) == 7}
    opened = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            opened.append(str(file.readlink()))
    return Counter("engine" if name in nameless else "ours" for name in opened)
