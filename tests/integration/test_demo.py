"""`farhand demo`, as the first thing that a newcomer starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_turns_red_to_green_and_leaves_nothing_behind() -> None:
    with tempfile.TemporaryDirectory(prefix="fh-demo-") as scratch:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": scratch, "FARHAND_DATABASE_URL": "not this one"}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "infra.cli", "demo"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(Path(scratch).iterdir()) == []
    steps = (
        r"clone of main\)\n  FAILED \(failures=1\)\n"
        r".*▸ search_files"
        r".*▸ \$ python3 -m unittest\n.*FAILED"
        r".*\+         if seconds >= size:"
        r".*▸ \$ python3 -m unittest -v\n.*\n         OK\n"
        r".*pushed farhand/\S+ \(\w+\): 1 file, \+1 -1\n"
        r".*\+        if seconds >= size:\n"
        r".*clone of farhand/\S+\)\n  OK\n"
    )
    assert re.search(steps, done.stdout, re.DOTALL), done.stdout
    assert "a recording speaks in place of the model" in done.stderr
