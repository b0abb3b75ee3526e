"""gunicorn's gevent worker, which on TERM also sends the clients of the stream away.

They would keep it until the graceful timeout otherwise: `worker_class = "api.gateway.worker.DrainingWorker"`.
"""

from __future__ import annotations

from types import FrameType

import gevent
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from api.gateway import EXTENSION


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn ships no types
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        gateway = getattr(self.wsgi, "extensions", {}).get(EXTENSION)
        if gateway is not None:
            gevent.spawn(gateway.drain)  # a signal handler must not wait
