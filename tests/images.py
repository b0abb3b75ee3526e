"""Images for tests: the agent's own, changed by a command. A container of it runs that without a network."""

from __future__ import annotations

import subprocess
from typing import Self
from uuid import uuid4

BASE = "farhand-agent:1"


class Images:
    """Makes images; a context manager that removes them."""

    def __init__(self) -> None:
        self._made: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            docker("rmi", "-f", name)

    def make(self, command: str) -> str:
        """The name of a new one."""
        name = f"fh-test-{uuid4().hex[:12]}:1"
        container = f"fh-test-{uuid4().hex[:12]}"
        try:
            docker("run", "--network=none", f"--name={container}", "--entrypoint=sh", BASE, "-c", command)
            docker("commit", container, name)
            self._made.append(name)
        finally:
            docker("rm", "-f", container)
        return name


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=120).stdout
