"""How gunicorn serves the API: `-c python:api.gunicorn_conf`. Address and number of processes come from outside.

Imports nothing of ours: this runs before gevent has patched the standard library, which it does in each worker.
"""

import os

worker_class = "api.gateway.worker.DrainingWorker"
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
worker_connections = 10_000
"""Sockets of one process; a stream is one that stays."""

timeout = 30
"""Seconds without a heartbeat of the event loop, not of a request, until a process is replaced."""
graceful_timeout = 5
"""Also what an idle keep-alive connection can hold up the end of a process."""
keepalive = 75

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# No proxy is assumed: nobody's X-Forwarded-… is believed. FARHAND_PUBLIC_URL says what browsers see.
forwarded_allow_ips = ""
control_socket_disable = True

preload_app = False
accesslog = None
errorlog = "-"
loglevel = os.environ.get("FARHAND_LOG_LEVEL", "info").lower()
