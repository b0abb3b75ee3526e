"""Run directories for tests: short, and gone afterwards whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_run_dir() -> Iterator[Path]:
    """A short path (a socket path has 108 bytes at most). The runtime in it is read-only, to its owner too."""
    path = Path(tempfile.mkdtemp(prefix="fh-"))
    try:
        yield path
    finally:
        for directory, _, _ in os.walk(path):
            Path(directory).chmod(0o700)
        shutil.rmtree(path)
