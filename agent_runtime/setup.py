"""The project's setup, before the first step: run once where nothing is kept of it, else put back. In the loop.

Where it has to be run: a clean checkout of the base commit ─► the script ─► all processes killed ─► what it left, sent
to the worker piece by piece ─► the task's own checkout ─► what it left, put back from the worker's archive. So what is
kept does not depend on the task, and no command of an agent has run before it was taken.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from agent_runtime.endings import Failed
from agent_runtime.helper_client import HelperClient, HelperDied
from agent_runtime.link import Link
from agent_runtime.protocol import Job, Setup

SHOWN_CHARS = 3000
"""Of the script's output, its end."""
PATIENCE_S = 60.0


def check_out(link: Link, helper: HelperClient, job: Job, deadline: float) -> tuple[str, str]:
    """As `HelperClient.checkout`, with what the setup leaves. Raises Failed, and what the link raises."""
    setup, workspace = job["setup"], job["workspace"]
    if setup is not None and not setup["kept"]:
        helper.checkout({**workspace, "head": workspace["base"], "tree": None}, _left(deadline))
        _run(helper, setup, deadline)
        try:
            helper.kill_all()
            _send(link, helper)
        except HelperDied as death:
            raise _failed(f"what it left could not be packed: {death}") from death
    checked_out = helper.checkout(workspace, _left(deadline))
    _put_back(helper, deadline)
    return checked_out


def _put_back(helper: HelperClient, deadline: float) -> None:
    try:
        problem = helper.setup("unpack_setup", _left(deadline))[0].get("problem")
    except HelperDied as death:
        problem = str(death)
    if problem:
        raise _failed(str(problem))


def _run(helper: HelperClient, setup: Setup, deadline: float) -> None:
    seconds = min(setup["timeout_s"], _left(deadline))
    request = {"script": setup["script"], "environment": setup["environment"], "timeout_s": seconds}
    try:
        done: dict[str, Any] = helper.setup("run_setup", seconds + PATIENCE_S, **request)[0]
    except HelperDied as death:
        raise _failed(f"it could not be run to its end: {death}") from death
    if done["failure"]:
        raise _failed(f"{done['failure']}. The end of its output:\n{done['output'][-SHOWN_CHARS:].strip() or '(none)'}")


def _send(link: Link, helper: HelperClient) -> None:
    digest, sent, last = hashlib.sha256(), 0, False
    while not last:
        reply, data = helper.setup("pack_setup", PATIENCE_S, first=sent == 0)
        if "problem" in reply:
            raise _failed(reply["problem"])
        last = reply["last"]
        digest.update(data)
        link.setup_part(sent, data)
        sent += len(data)
    link.setup_done({"bytes": sent, "sha256": digest.hexdigest(), "not_kept": reply["not_kept"]})


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1.0)


def _failed(message: str) -> Failed:
    return Failed(
        "setup_failed",
        f"The project's setup script failed: {message}",
        "Correct the script, the project's egress or its variables, then retry the task. It runs without secrets and "
        "without root, in a checkout of the base branch; system packages belong into the project's image.",
    )
