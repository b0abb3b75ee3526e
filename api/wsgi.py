"""Entry points for gunicorn: `gunicorn -c python:api.gunicorn_conf 'api.wsgi:both()'`."""

from __future__ import annotations

import logging
import os

from flask import Flask

from api.app import create_app
from infra import settings
from infra.logs import configure_logging
from infra.services import Services

log = logging.getLogger(__name__)


def rest() -> Flask:
    """REST only."""
    return _app("api", rest=True, stream=False)


def stream() -> Flask:
    """The WebSocket gateway only."""
    return _app("gateway", rest=False, stream=True)


def both() -> Flask:
    """REST and the stream on one port."""
    return _app("api", rest=True, stream=True)


def _app(service: str, *, rest: bool, stream: bool) -> Flask:
    loaded = settings.load()
    configure_logging(loaded, service)
    for stranger in settings.unknown_variables(os.environ):
        log.warning(stranger, extra={"action": "setting_unknown"})
    return create_app(Services.open(loaded), rest=rest, stream=stream)
