"""What a sandbox is given to work on: a repository with one commit, and a job on it as a worker hands it out."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_runtime.protocol import VERSION


def link_packs(repo: Path, into: Path) -> str:
    """Make a repository with one commit, hard-link its packs as a worker does, and return the commit."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repo), "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if not repo.exists():
        repo.mkdir()
        git("init", "-q")
        (repo / "hello.py").write_text("print('hello')\n")
        git("add", "-A")
        git("commit", "-qm", "hello")
        git("repack", "-qad")
    for pack in (repo / ".git/objects/pack").iterdir():
        (into / pack.name).hardlink_to(pack)
    return git("rev-parse", "HEAD")


def make_job(base: str, tools: Sequence[str], limits: Mapping[str, float]) -> dict[str, Any]:
    """The first attempt at a task that starts from the commit `base`. `limits`: those that the tests differ in."""
    return {
        "protocol": VERSION,
        "task_id": "1",
        "attempt": 1,
        "workspace": {"base": base, "head": base, "tree": None, "branch": "farhand/1"},
        "steps": [],
        "calls": [],
        "inbox": [{"id": "1", "text": "Do it."}],
        "agent": {"name": "coder", "instructions": "You fix code.", "tools": [*tools], "max_tokens": 4096},
        "limits": {**limits, "pack_bytes": 8 << 20, "file_bytes": 1 << 20},
    }
