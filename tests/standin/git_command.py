"""git as the tests run it: the same on every machine, down to the ids of its commits."""

import os
import subprocess
from pathlib import Path


def isolated_git_environment() -> dict[str, str]:
    """An environment in which git knows no configuration of this machine or its user, and asks nobody anything."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    person = {"NAME": "Farhand Test", "EMAIL": "test@example.invalid", "DATE": "2020-01-01T00:00:00Z"}
    people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in person.items()}
    quiet = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    quiet["XDG_CONFIG_HOME"] = os.devnull  # else ~/.config/git/ignore and attributes would still count
    return kept | people | quiet


def run_git(*arguments: str, cwd: Path | None = None) -> str:
    """Raises RuntimeError with git's message."""
    result = subprocess.run(
        ["git", *arguments], cwd=cwd, env=isolated_git_environment(), capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout
