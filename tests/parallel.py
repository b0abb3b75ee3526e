"""Which tests may run beside which, when pytest-xdist runs them in several processes (`-n 2`).

A *lane* is run by one process, in order. A file is a lane of its own, so that what its tests share is set up once; all
files of a slow directory that shares deployments are one lane, and so is everything that starts `local` sandboxes as
root: their commands run as `nobody`, whose processes the kernel counts for the whole machine, bombs of tests included.
Lanes are handed out longest first. Databases, Redis, ports, directories, users and labels of containers belong to one
process each, so that lanes need to know nothing of each other.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

CHAOS = "tests/chaos"
LOCAL_SANDBOXES = "local sandboxes"

_SHARED_LANES = {
    "tests/chaos/": CHAOS,
    "tests/security/": LOCAL_SANDBOXES,
    "tests/contract/": LOCAL_SANDBOXES,
    "tests/integration/workers/": LOCAL_SANDBOXES,
    "tests/integration/egress/test_sandboxes.py": LOCAL_SANDBOXES,
    "tests/integration/test_demo.py": LOCAL_SANDBOXES,
    "tests/integration/test_up.py": LOCAL_SANDBOXES,
}
_LONGEST_FIRST = (
    LOCAL_SANDBOXES,
    CHAOS,
    "tests/acceptance/",
    "tests/integration/pull_requests/test_never_two.py",
    "tests/integration/gateway/",
    "tests/integration/",
    "tests/unit/cli/",
    "tests/unit/test_bootstrap.py",
)


def lane_of(nodeid: str) -> str:
    """The lane of a test, by its file."""
    file = nodeid.partition("::")[0]
    return next((lane for path, lane in _SHARED_LANES.items() if file.startswith(path)), file)


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
