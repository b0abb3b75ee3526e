"""gunicorn's main process must not load what gevent is still to patch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_configuration_loads_nothing_that_gevent_must_patch_first() -> None:
    script = (
        "import sys, importlib; import gunicorn.app.wsgiapp; before = set(sys.modules);"
        "conf = importlib.import_module('api.gunicorn_conf');"
        "module, _, name = conf.worker_class.rpartition('.'); getattr(importlib.import_module(module), name);"
        "late = {'psycopg', 'redis', 'flask', 'sqlalchemy', 'celery', 'pydantic', 'api.wsgi', 'infra.services'};"
        "print(sorted(late & (set(sys.modules) - before)))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
