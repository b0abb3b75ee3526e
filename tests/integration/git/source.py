"""A work tree of a test, as a user or an agent in a sandbox would have it."""

import subprocess
from pathlib import Path

from tests.standin.git_command import isolated_git_environment, run_git
from workers.git.repo import TreePack


class Source:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.remote = ""
        run_git("init", "--quiet", "--initial-branch=main", str(path))

    def git(self, *arguments: str) -> str:
        return run_git("-C", str(self.path), *arguments).strip()

    def write(self, name: str, text: str | bytes) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def push(self, *refspecs: str) -> None:
        self.git("push", "--quiet", "--force", self.remote, *(refspecs or ("HEAD:refs/heads/main",)))

    def tree_pack(self, parent: str = "HEAD") -> TreePack:
        """The work tree as it is now, as a thin pack over the tree of `parent`."""
        self.git("add", "--all")
        tree = self.git("write-tree")
        base = self.git("rev-parse", f"{parent}^{{tree}}")
        packed = subprocess.run(
            ["git", "-C", str(self.path), "pack-objects", "--quiet", "--stdout", "--revs", "--thin"],
            input=f"{tree}\n^{base}\n".encode(),
            env=isolated_git_environment(),
            capture_output=True,
            check=True,
        )
        return TreePack(tree, base, packed.stdout)
