"""How many files and sockets this process may have open: what a shell allows by default is few for a busy worker."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

ALONE = 512
EACH = 16
"""A sandbox's link and its connections, those to the engine and to the model, the pipes of git."""


def allow_open_files(sandboxes: int) -> None:
    """Raise this process's limit to what a worker with so many sandboxes needs, as far as it may."""
    needed = ALONE + EACH * sandboxes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        message = "%d open files are allowed, %d may be needed: raise the limit, or lower FARHAND_WORKER_SLOTS"
        log.warning(message, allowed, needed, extra={"action": "open_files_few"})
