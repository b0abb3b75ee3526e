"""Logging of every service: plain lines on a terminal, one JSON object a line otherwise. Secrets are masked.

A line carries what happened as a stable `action`, and whom it is about: `task_id`, `attempt`, `request_id`. Give them
with `extra={"action": …}`, or for all lines of a block with `log_context(task_id=…)`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO
from urllib.parse import unquote, urlsplit

from infra.settings import Settings

FIELDS = ("action", "task_id", "attempt", "request_id")
MASK = "***"
_QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "docker", "alembic")
"""Libraries whose INFO tells nothing of ours. The SDK of the model speaks through `httpx2`, a line a request."""

_PATTERNS = (
    r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)",  # credentials in a URL
    r"(?i:(?<=bearer )|(?<=basic ))[A-Za-z0-9._~+/=-]{8,}",
    r"sk-ant-[A-Za-z0-9_-]+|\bfh_[A-Za-z0-9_-]{20,}",
    r"gh[opsu]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}",
)
_SHORTEST_SECRET = 6
"""Masking shorter values would spoil lines that only happen to contain them."""

_context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default={})  # noqa: B039  (never changed)


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add fields to every line that is logged within the block, in this thread or greenlet."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class Mask:
    """Replaces the deployment's own secrets, and what looks like one, in a text."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._pattern = re.compile("|".join((*(re.escape(secret) for secret in known), *_PATTERNS)))

    @classmethod
    def from_settings(cls, settings: Settings) -> Mask:
        passwords = (urlsplit(url).password or "" for url in (settings.database_url, settings.redis_url))
        keys = (key.get_secret_value() for key in settings.secret_keys)
        named = {settings.anthropic_api_key.get_secret_value(), *keys}
        for password in passwords:
            named |= {password, unquote(password)}
        return cls(tuple(named))

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record: its own, and those of the block that it was logged in."""
    own = {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
    return {**_context.get(), **own}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, service, logger, message, the fields, and the traceback of an exception."""

    def __init__(self, service: str, mask: Mask) -> None:
        super().__init__()
        self._service = service
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": self._mask(record.getMessage()),
            **{name: self._mask(str(value)) for name, value in fields_of(record).items()},
        }
        if record.exc_info:
            line["exception"] = self._mask(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """For a person at a terminal."""

    def __init__(self, mask: Mask) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        named = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        head, newline, rest = super().format(record).partition("\n")
        return self._mask(f"{head}  [{named}]{newline}{rest}" if named else f"{head}{newline}{rest}")


def configure_logging(settings: Settings, service: str = "farhand", stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (standard error). Called again it replaces what it set up."""
    stream = stream or sys.stderr
    mask = Mask.from_settings(settings)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter(mask) if stream.isatty() else JsonFormatter(service, mask))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    logging.captureWarnings(capture=True)
