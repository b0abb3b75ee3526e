"""A gateway in a process of its own: gunicorn with its gevent worker, as it is deployed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from infra.settings import Settings
from tests.integration.gateway.served import LIMITS

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
SERVED = "tests.integration.gateway.served"


class GatewayProcess:
    """Its listening socket belongs to the test: it outlives the process, and who connects meanwhile is kept waiting."""

    def __init__(self, settings: Settings, **limits: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._environment = {
            **os.environ,
            "FARHAND_DATABASE_URL": settings.database_url,
            "FARHAND_REDIS_URL": settings.redis_url,
            "FARHAND_ANTHROPIC_API_KEY": settings.anthropic_api_key.get_secret_value(),
            "FARHAND_RUN_DIR": str(settings.run_dir),
            "FARHAND_SECRET_KEYS": ",".join(key.get_secret_value() for key in settings.secret_keys),
            LIMITS: json.dumps(limits),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        return f"ws://{self.address}/v1/stream"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        number = self._listener.fileno()
        options = ["--config", "python:api.gunicorn_conf"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "--bind", f"fd://{number}", f"{SERVED}:app()"],
            env=self._environment,
            pass_fds=[number],
            start_new_session=True,
        )
        connection = http.client.HTTPConnection(self.address, timeout=START_TIMEOUT_S)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()

    def terminate(self) -> None:
        """As a deployment stops it: TERM, and the process drains."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As the machine's loss: nobody says goodbye."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        self._listener.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        process.wait(STOP_TIMEOUT_S)
