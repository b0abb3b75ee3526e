"""The Flask application: REST, the stream, or both on one port."""

from __future__ import annotations

from flask import Flask

from api import headers, history, openapi, operations, problems, projects, routes, tasks
from api.auth import accounts, tokens
from infra.services import Services

_PARTS = (accounts.routes, tokens.routes, projects.routes, tasks.routes, history.routes, history.usage_routes)
ALWAYS = tuple(operations.routes)
REST = tuple(operation for part in _PARTS for operation in part)


def create_app(services: Services, *, rest: bool = True, stream: bool = True) -> Flask:
    """`rest`: everything under /v1 but the stream, and the documents. `stream`: the WebSocket gateway.

    Every application answers /healthz, /readyz and /metrics.
    """
    app = Flask("farhand", static_folder=None)
    app.url_map.merge_slashes = False  # `//v1` is nothing, rather than a redirect
    app.json.sort_keys = False  # type: ignore[attr-defined]
    problems.register(app)
    headers.register(app, services.settings)
    operations.register_metrics(app, services)
    routes.install(app, services, ALWAYS)
    if rest:
        routes.install(app, services, REST)
        openapi.register(app, ALWAYS + REST)
    if stream:
        from api.gateway import register  # loaded only where there is a stream

        register(app, services)
    return app
