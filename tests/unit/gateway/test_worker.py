"""gunicorn's main process loads the worker class before gevent has patched the standard library."""

from __future__ import annotations

import subprocess
import sys


def test_the_worker_class_brings_along_nothing_that_would_stay_unpatched() -> None:
    code = "import sys, api.gateway.worker; print(sys.modules.keys() & {'flask', 'redis', 'psycopg', 'sqlalchemy'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
