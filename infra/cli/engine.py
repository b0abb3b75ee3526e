"""Whether a Docker Engine answers here, asked over its HTTP API. (To run anything in it is the workers' business.)"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

TIMEOUT_S = 5.0
_DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Engine:
    """`version` is empty when none answers, and `problem` says why. `has_image`: the one that was asked for."""

    host: str
    version: str = ""
    has_image: bool = False
    problem: str = ""

    @property
    def is_ready(self) -> bool:
        return bool(self.version) and self.has_image


def look_for_engine(image: str) -> Engine:
    """Ask the engine of DOCKER_HOST, or of this machine, for its version and for an image. Never raises."""
    host = os.environ.get("DOCKER_HOST") or _DEFAULT_HOST
    scheme, _, rest = host.partition("://")
    options: dict[str, Any] = {"base_url": "http://docker"}
    if scheme == "unix":
        options["transport"] = httpx.HTTPTransport(uds=rest)
    elif scheme in {"tcp", "http"}:
        options["base_url"] = f"http://{rest}"
    else:
        return Engine(host, problem=f"this check can't speak to {scheme}: hosts")
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False, **options) as client:
            version = client.get("/version").raise_for_status().json()["Version"]
            found = client.get(f"/images/{quote(image)}/json")
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Engine(host, problem=str(error) or type(error).__name__)
    return Engine(host, version=version, has_image=found.status_code == httpx.codes.OK)
