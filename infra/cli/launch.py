"""The command lines of the services. They are started by these alone: infra imports neither api nor workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.queue import AGENTS, SYSTEM

SOURCE_ROOT = Path(__file__).resolve().parents[2]
"""The directory that `api`, `workers` and `infra` are imported from."""

_CELERY = (sys.executable, "-m", "celery", "-A", "workers.celery_app")


def api_command(*, bind: str, part: str) -> tuple[str, ...]:
    """gunicorn for `part` of the API: `rest`, `stream`, or `both` on one port.

    `bind` is `host:port`, or `fd://<n>` for a listening socket that the process inherits.
    """
    configuration = ("-c", "python:api.gunicorn_conf")
    return (sys.executable, "-m", "gunicorn", *configuration, "--bind", bind, f"api.wsgi:{part}()")


def worker_command(*, slots: int, number: int = 1) -> tuple[str, ...]:
    """Celery's worker. `number` tells the workers of one host apart."""
    queues = f"{AGENTS},{SYSTEM}"
    quiet = ("--without-gossip", "--without-mingle")
    return (*_CELERY, "worker", "-P", "gevent", "-c", str(slots), "-Q", queues, *quiet, "-n", f"worker{number}@%h")


def flower_command(*, port: int) -> tuple[str, ...]:
    return (*_CELERY, "flower", "--address=127.0.0.1", f"--port={port}")


def service_environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given` with our packages on the import path."""
    path = [str(SOURCE_ROOT), *filter(None, given.get("PYTHONPATH", "").split(os.pathsep))]
    return {**given, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def become(command: tuple[str, ...]) -> None:
    """Replace this process by a service, so that signals and the exit code are its own."""
    os.chdir(SOURCE_ROOT)
    os.execve(command[0], command, service_environment(os.environ))  # noqa: S606
