"""What a run has left: looked for twice, while everything still runs and when everything has stopped."""

from __future__ import annotations

from pathlib import Path

from tests.referee.deployment import Deployment
from tests.referee.hosts import processes_of
from tests.referee.waiting import NeverHappenedError, eventually

SWEPT_S = 90.0
"""Leftovers of a dead worker are removed by a sweep that comes every half minute."""
STOPPED_S = 20.0


def while_running(deployment: Deployment, warm: int) -> list[str]:
    """What no running task and no pool of warm sandboxes has. Waits for a sweep to remove it."""
    return _none_within(SWEPT_S, lambda: _of_hosts(deployment, warm) + _of_rows(deployment))


def after_the_stop(deployment: Deployment) -> list[str]:
    """What is there though every service has ended."""
    late = [f"{name} did not end when it was told to" for name in deployment.stopped_badly]
    return late + _none_within(STOPPED_S, lambda: _of_hosts(deployment, 0) + _of_processes(deployment))


def _none_within(seconds: float, look: object) -> list[str]:
    assert callable(look)
    try:
        eventually(lambda: not look(), "nothing is left", seconds)
    except NeverHappenedError:
        found: list[str] = look()
        return found
    return []


def _of_hosts(deployment: Deployment, warm: int) -> list[str]:
    found = []
    for host in deployment.hosts:
        containers, sandboxes, files = host.containers(), host.sandboxes(), host.sandbox_files()
        if len(containers) > warm:
            found.append(f"{len(containers) - warm} containers of {host.name}: {containers}")
        if len(sandboxes) > warm:
            found.append(f"{len(sandboxes) - warm} sandboxes of {host.name} that run: {sandboxes}")
        if len(files) > warm:
            found.append(f"{len(files) - warm} directories of {host.name}: {files}")
    return found


def _of_rows(deployment: Deployment) -> list[str]:
    held = "lease_token is not null or reserved_usd <> 0 or pull_request_token is not null"
    queries = {
        "tasks that somebody still holds": f"select count(*) from tasks where {held}",
        "holds of money": "select count(*) from model_calls where state = 'reserved'",
    }
    counts = {what: deployment.rows(query)[0][0] for what, query in queries.items()}
    return [f"{count} {what}" for what, count in counts.items() if count]


def _of_processes(deployment: Deployment) -> list[str]:
    found = {pid: host.name for host in deployment.hosts for pid in processes_of(host.run_dir)}
    return [f"process {pid} of {name}: {_command_of(pid)}" for pid, name in found.items()]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "(it has ended)"
