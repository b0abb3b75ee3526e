"""Celery's entry point: `celery -A workers.celery_app worker -P gevent`. A shim: the work is in `workers.host`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any
from uuid import UUID

from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutting_down

from infra import settings
from infra.errors import FarhandError
from infra.logs import configure_logging
from infra.queue import RUN_ATTEMPT
from infra.services import Services
from workers.host import WorkerHost
from workers.sandbox.choose import choose_driver

log = logging.getLogger(__name__)

# A worker that owns the engine's socket is as mighty as root, whoever it runs as, and takes JSON only. Its commands run
# in sandboxes: those of `local` as another user.
warnings.filterwarnings("ignore", "You're running the worker with superuser privileges", SecurityWarning)

services = Services.open(settings.load())
app = services.celery


class _Process:
    """The host of this worker process, made once Celery knows its name."""

    host: WorkerHost | None = None


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure_logging(services.settings)
    for stranger in settings.unknown_variables(os.environ):
        log.warning(stranger, extra={"action": "setting_unknown"})


@worker_init.connect
def _start_host(sender: Any, **_: Any) -> None:
    configure_logging(services.settings)  # Celery asks for it later, and adopted tasks begin here
    try:
        _Process.host = WorkerHost(services, choose_driver(services.settings), name=str(sender.hostname))
        _Process.host.start()
    except FarhandError as error:
        log.critical("%s. %s", error.message, error.hint, extra={"action": "worker_not_started"})
        sys.exit(1)
    except Exception:
        # Celery would log it and go on: a worker that takes every wake-up and claims nothing.
        log.critical("the worker can't start", exc_info=True, extra={"action": "worker_not_started"})
        sys.exit(1)


@worker_ready.connect
def _say_ready(sender: Any, **_: Any) -> None:
    log.info("worker %s takes tasks", sender.hostname, extra={"action": "worker_ready"})


@worker_shutting_down.connect
def _drain(sig: str, **_: Any) -> None:
    """TERM: somebody comes after us. INT and QUIT, as from a terminal: nobody does."""
    if _Process.host is not None:
        _Process.host.stop(for_good=sig != "SIGTERM")


@app.task(name=RUN_ATTEMPT, ignore_result=True)
def run_attempt(task_id: str) -> str | None:
    """Run an attempt at this task, or at another one whose turn it is. Says which, for who looks at Celery's events."""
    try:
        known = UUID(task_id)
    except (ValueError, TypeError, AttributeError):
        log.warning("a wake-up for %r, which is no task id", task_id, extra={"action": "wake_up_malformed"})
        return None
    lease = _Process.host.run(known) if _Process.host is not None else None
    return None if lease is None else f"{lease.task_id}.{lease.attempt}"
