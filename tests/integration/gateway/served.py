"""The application that the gateway's tests have gunicorn serve: as shipped, but for bounds that a test can reach."""

from __future__ import annotations

import json
import os

from flask import Flask

from api.app import create_app
from api.gateway import register
from api.gateway.limits import Limits
from infra import settings
from infra.services import Services

LIMITS = "GATEWAY_LIMITS"
"""JSON object: fields of `Limits`."""


def app() -> Flask:
    services = Services.open(settings.load())
    served = create_app(services, rest=False, stream=False)
    register(served, services, Limits(**json.loads(os.environ[LIMITS])))
    return served
