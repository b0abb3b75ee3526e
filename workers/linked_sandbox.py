"""A sandbox together with the servers of its link: all that can be made ready before a task is known.

    starting    directory, servers and container are being made
    waiting     its loop has asked for a job, and every part that it needs is in memory
    taken       an attempt has it. `serve` gives it the attempt's link, whose job it then gets
    let go      its worker leaves and serves it no more; it runs on. From a worker that died it is the same
    discarded   killed and removed; nothing of it is left

Who may move it: its maker (a pool, or an attempt that starts one cold) from `starting` to `waiting`; a pool, under its
lock, from `waiting` to `taken` or `discarded`; the attempt that has it from `taken` to `let go` or `discarded`; and
whoever adopted its task (`infra.tasks.takeover`) from `let go` to `taken` again, by an object of its own on the same
directory and the same container. A sandbox serves one task.

What happens when one dies in each state:

    its worker   its end of the link is closed and its hold is free. Starting, waiting or taken, the next sweep of this
                 host removes it (a worker's start begins with one), unless a running task names it; and its runtime
                 ends by itself after LINK_SILENCE_S without a word. Taken and served: its task is taken over with it
    the sandbox  starting: its maker is told. Waiting: the pool replaces it. Taken, and nothing was heard from it since
                 it got its job: the attempt starts another one, cold. Later: a death, which is counted
    the engine   containers end, or go on and are seen again when the engine is back; what is asked of it meanwhile
                 fails, which a pool meets with a rest, and an attempt by giving the task back
    Postgres     nothing here needs it before an attempt does
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from infra.egress import Egress
from infra.services import Services
from infra.tasks.transitions import Lease
from workers.egress.server import EgressServer
from workers.relay.link import Link
from workers.relay.server import LinkServer
from workers.sandbox import directory
from workers.sandbox.base import Driver, Exit, Sandbox, SandboxSpec
from workers.sandbox.hold import Hold

log = logging.getLogger(__name__)

_LONG_S = 3600.0


class LinkedSandbox:
    """One sandbox and the worker's end of its link. `hold`: this process's claim on it before a row names it."""

    def __init__(self, driver: Driver, run_dir: Path, bundle: Path, sandbox_id: str, hold: Hold | None = None) -> None:
        self.id = sandbox_id
        self._driver = driver
        self._run_dir = run_dir.absolute()
        self._hold = hold
        self._spec = SandboxSpec(sandbox_id, directory.path_of(self._run_dir, sandbox_id), bundle)
        self._server: LinkServer | None = None
        self._egress: EgressServer | None = None
        self._sandbox: Sandbox | None = None
        self._settled = threading.Event()
        self._telling = threading.Lock()
        self._exit: Exit | None = None
        self._on_end: Callable[[Exit], None] = lambda _exit: None

    @property
    def objects(self) -> Path:
        """Where the sandbox sees a repository's objects."""
        return self._spec.directory / "in"

    @property
    def directory(self) -> Path:
        return self._spec.directory

    @property
    def exit(self) -> Exit | None:
        """How it ended, as far as that is known yet."""
        return self._exit

    # ---- starting ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make its directory and listen on its link: from here on objects may be put in, and `serve` be called."""
        directory.make(self._run_dir, self.id)
        self._make_servers()
        self.listen()

    def _make_servers(self) -> None:
        link = self._spec.directory / "link"
        self._server, self._egress = LinkServer(link), EgressServer(link)

    def listen(self) -> None:
        """On its link, in place of whoever did before."""
        assert self._server is not None  # it was opened or found  # noqa: S101
        assert self._egress is not None  # noqa: S101
        self._server.start()
        self._egress.start()

    def start(self) -> None:
        """Raises as `Driver.start` does; then `remove` removes what is left."""
        self._watch_over(self._driver.start(self._spec))

    def find(self) -> None:
        """It was started by a worker that is dead. `listen` once `serve` and `open_egress` have said for whom."""
        self._make_servers()
        self._watch_over(self._driver.find(self._spec))

    def wait_until_it_asks(self, timeout: float) -> bool:
        """Whether its loop has asked for a job. False as soon as it has died, or after `timeout` seconds."""
        assert self._server is not None  # it was opened  # noqa: S101
        self._server.on_asked(self._settled.set)
        self._settled.wait(timeout)
        return self._server.asked and self._exit is None

    # ---- taken -------------------------------------------------------------------------------------------------

    def serve(self, link: Link) -> None:
        """It belongs to this link's attempt, and its loop gets the job."""
        assert self._server is not None  # it was opened  # noqa: S101
        directory.mark_served(self._spec.directory)
        self._server.serve(link)

    def open_egress(
        self,
        services: Services,
        lease: Lease,
        project_id: UUID,
        *,
        suspended: Callable[[], bool],
        on_lost: Callable[[], None],
    ) -> Egress:
        """Let it reach what the task's project allows, which is returned. Before this its proxy refuses everything."""
        assert self._egress is not None  # it was opened  # noqa: S101
        return self._egress.assign(services, lease, project_id, suspended=suspended, on_lost=on_lost)

    def give_up_hold(self) -> None:
        """A row names it now: whoever removes what is left looks there."""
        if self._hold is not None:
            self._hold.give_up()

    def tell_end(self, on_end: Callable[[Exit], None]) -> None:
        """Call `on_end` once it has ended, at once if it has; in a thread of its own. Nobody told before is told."""
        with self._telling:
            self._on_end = on_end
            ended = self._exit
        if ended is not None:
            threading.Thread(target=on_end, args=(ended,), name=f"ended {self.id}", daemon=True).start()

    # ---- let go, or discarded ----------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Serve it no more, and leave it running: its loop asks until somebody else serves it."""
        if self._server is not None:
            self._server.stop()
        if self._egress is not None:
            self._egress.cut()
            self._egress.settle()

    def kill(self) -> None:
        """Dead when this returns, and cut off from its link in any case. Raises EngineUnavailableError: is it?"""
        if self._egress is not None:
            self._egress.cut()
        try:
            if self._sandbox is not None:
                self._sandbox.kill()
        finally:
            if self._server is not None:
                self._server.stop()

    def remove(self) -> None:
        """Nothing of it is left when this returns. Raises EngineUnavailableError: the sweep removes it."""
        if self._egress is not None:
            self._egress.settle()
        removed = False
        try:
            if self._sandbox is not None:
                self._sandbox.remove()
            else:
                self._driver.remove(self.id)
            removed = True
        finally:
            if self._hold is not None:
                self._hold.give_up(forget=removed)

    def discard(self) -> None:
        """Kill and remove it. What can't be removed now is said, and left to the sweep."""
        for do in (self.kill, self.remove):
            try:
                do()
            except Exception:
                log.exception("can't discard a sandbox", extra={"action": "sandbox_not_removed", "sandbox": self.id})

    def _watch_over(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        threading.Thread(target=self._watch, args=(sandbox,), name=f"watch {self.id}", daemon=True).start()

    def _watch(self, sandbox: Sandbox) -> None:
        ended = None
        while ended is None:
            ended = sandbox.wait(_LONG_S)
        with self._telling:
            self._exit = ended
            on_end = self._on_end
        self._settled.set()
        on_end(ended)
