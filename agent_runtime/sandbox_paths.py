"""Where things are inside a sandbox, and the environment that commands get."""

from __future__ import annotations

import os
from typing import NamedTuple

from agent_runtime.git import DEFAULT_PATH
from agent_runtime.processes import MARKER


class Paths(NamedTuple):
    """All absolute. `objects` is the read-only git object directory with the repository's packs."""

    work: str
    objects: str

    @property
    def repo(self) -> str:
        return os.path.join(self.work, "repo")

    @property
    def home(self) -> str:
        return os.path.join(self.work, "home")

    @property
    def state(self) -> str:
        return os.path.join(self.work, "state")

    @property
    def snapshots(self) -> str:
        """Our private git directory; the workspace's own `.git` belongs to the agent."""
        return os.path.join(self.state, "snap.git")

    def environment(self) -> dict[str, str]:
        """Built from nothing, so that no setting of the worker or of the container leaks in. PATH is the image's."""
        name, email = "Farhand agent", "agent@farhand.invalid"
        return {
            "PATH": os.environ.get("PATH") or DEFAULT_PATH,
            "HOME": self.home,
            "USER": "farhand",
            "LOGNAME": "farhand",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": email,
            "GIT_COMMITTER_NAME": name,
            "GIT_COMMITTER_EMAIL": email,
            "GIT_TERMINAL_PROMPT": "0",
            MARKER: self.work,
        }
