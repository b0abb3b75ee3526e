"""The route `/v1/stream`."""

from __future__ import annotations

from typing import Any

import flask_sock
from flask import Flask, request

from api.gateway import EXTENSION
from api.gateway.gateway import Gateway
from api.gateway.limits import Limits
from api.gateway.socket import Socket
from infra.services import Services

# flask-sock knows its server by this name only.
flask_sock.Server = Socket


def install(app: Flask, services: Services, limits: Limits | None) -> None:
    limits = limits or Limits()
    gateway = app.extensions[EXTENSION] = Gateway(services, limits)
    app.config["SOCK_SERVER_OPTIONS"] = {"limits": limits}
    sock: Any = flask_sock.Sock(app)

    @sock.route("/v1/stream")  # type: ignore[untyped-decorator]
    def stream(socket: Socket) -> None:
        gateway.serve(socket, request)
