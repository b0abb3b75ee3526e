"""The proxy at the worker's end of one sandbox's link: HTTP CONNECT and plain HTTP on `link/egress.sock`.

    bound ─► (warm: everything is refused) ─► assigned: policy and journal ─► cut: nobody is connected ─► settled

    bind     before the sandbox starts, and before its task is known
    assign   once, when the task is known; until then 503
    cut      at the attempt's end, before anything else: listener and connections are gone when it returns. If the
             worker dies instead, the kernel does the same
    settle   the last audit records, while the lease is still ours

One connection: head read ─► judged by name ─► resolved, addresses checked ─► recorded ─► connected ─► bytes ─► ended.
Each of these is bounded in time (`bounds`), and each may end with a refusal that is recorded too. Only what the
journal has taken may go out. While the worker is suspended nothing passes in either direction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from uuid import UUID

from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from agent_runtime.protocol import EGRESS_SOCKET
from infra.egress import Egress
from infra.services import Services
from infra.tasks.egress import egress_of
from infra.tasks.transitions import Lease
from workers.egress.bounds import Bounds, Meter, Spent
from workers.egress.connection import Admission, Connection
from workers.egress.journal import Journal
from workers.egress.network import Network
from workers.egress.policy import Policy
from workers.egress.refusal import Refused

log = logging.getLogger(__name__)

BACKLOG = 128


class EgressServer:
    """For one sandbox."""

    def __init__(self, directory: Path, *, bounds: Bounds | None = None, network: Network | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._path = directory / EGRESS_SOCKET
        self._suspended: Callable[[], bool] = lambda: False
        self._network = network or Network()
        self._spent = Spent()
        self._policy: Policy | None = None
        self._journal: Journal | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A full pool stops accepting: who floods the proxy waits for himself.
        self._server = StreamServer(self._listener, self._serve, spawn=Pool(self._bounds.connections))

    def start(self) -> None:
        """Bind and serve. The directory's mode keeps all but the loop's user out."""
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o666)
        self._listener.listen(BACKLOG)
        self._server.start()

    def assign(
        self,
        services: Services,
        lease: Lease,
        project_id: UUID,
        *,
        suspended: Callable[[], bool],
        on_lost: Callable[[], None],
    ) -> Egress:
        """The task is known: its project's policy holds from now on.

        `suspended`: whether the worker is past its own deadline. `on_lost`: the lease turned out to be gone.
        """
        self._suspended = suspended
        with services.database.read() as connection:
            egress: Egress = egress_of(connection, project_id)
        self._journal = Journal(services, lease, self._bounds, on_lost)
        self._policy = Policy.of(egress, services.settings.egress_allow)
        return egress

    def cut(self) -> None:
        """Nobody is connected any more when this returns."""
        if self._journal is not None:
            self._journal.pause()  # those that are cut shall not wait for Postgres
        self._server.stop(timeout=0)
        with suppress(OSError):  # what follows, above all the kill, must not depend on a file
            self._path.unlink()

    def settle(self) -> None:
        """Write what is not recorded yet. After `cut`."""
        if self._journal is not None:
            self._journal.settle()

    def _serve(self, client: socket.socket, _address: object) -> None:
        """In a greenlet of its own. Whatever a client does ends here."""
        with closing(client):
            try:
                Connection(client, self._bounds, self._network, self._admit).run()
            except OSError:
                pass  # it is gone
            except Exception:
                log.exception("a connection of a sandbox broke", extra={"action": "egress_broke"})

    def _admit(self) -> Admission:
        """Raises Refused while nothing may go out at all."""
        if self._suspended():
            raise Refused(503, "suspended", "the worker has lost touch with its database", "Try again later.")
        if self._policy is None or self._journal is None:
            raise Refused(503, "not_assigned", "no task is assigned yet", "Try again later.")
        return Admission(self._policy, self._journal, Meter(self._bounds, self._spent, self._suspended))
