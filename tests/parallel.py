"""Which tests may run beside which, when pytest-xdist runs them in several processes (`-n 2`).

A *lane* is run by one process, in order. A file is a lane of its own, so that what its tests share is set up once. All
of chaos is one, because it shares two deployments; and so is what starts `local` sandboxes as root: their commands run
as `nobody`, whose processes the kernel counts for the whole machine, fork bombs of tests included. Lanes are handed
out longest first. Databases, Redis, ports, directories, users and labels of containers belong to one process each, so
that lanes need to know nothing of each other.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

CHAOS = "tests/chaos"
LOCAL_SANDBOXES = "local sandboxes"

_IN_A_LOCAL_SANDBOX = re.compile(r"\[(.*-)?local(-.*)?\]$")
_LONGEST_FIRST = (
    CHAOS,
    LOCAL_SANDBOXES,
    "tests/integration/test_up.py",
    "tests/acceptance/",
    "tests/security/",
    "tests/integration/pull_requests/test_never_two.py",
    "tests/integration/egress/test_sandboxes.py",
    "tests/unit/test_bootstrap.py",
    "tests/unit/cli/",
    "tests/integration/",
    "tests/contract/",
)


def lane_of(nodeid: str) -> str:
    """The lane of a test, by its file and parameters."""
    if _IN_A_LOCAL_SANDBOX.search(nodeid):
        return LOCAL_SANDBOXES
    file = nodeid.partition("::")[0]
    return CHAOS if file.startswith(CHAOS) else file


def longest_first(items: list[pytest.Item]) -> None:
    """Order tests by how long their lanes take; within a lane they keep their order."""

    def rank(item: pytest.Item) -> int:
        lane = lane_of(item.nodeid)
        return next((n for n, prefix in enumerate(_LONGEST_FIRST) if lane.startswith(prefix)), len(_LONGEST_FIRST))

    items.sort(key=rank)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out lanes in the order in which the tests were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)
