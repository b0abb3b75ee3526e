"""The WebSocket gateway, `/v1/stream` (design section 8, docs/asyncapi.yaml).

gateway        one process's connections, and draining
connection     one client: logging in, frames, subscriptions
subscription   one client's view of one task: `resume` (events) and `parts` (deltas) are its pure state machines
feed           one client's view of all its tasks
hub            what is watched here: `doorbell` (Redis) with its `topics`, and the comparison with Postgres
socket         the corrected WebSocket server

Imports nothing by itself: gunicorn's main process loads `worker` from this package before gevent has patched
the standard library, and whatever else came along would stay unpatched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from api.gateway.limits import Limits
    from infra.services import Services

EXTENSION = "farhand-gateway"


def register(app: Flask, services: Services, limits: Limits | None = None) -> None:
    """Serve the stream at `/v1/stream`. The gateway is `app.extensions[EXTENSION]`."""
    from api.gateway.endpoint import install

    install(app, services, limits)
