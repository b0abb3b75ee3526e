"""The first process of a sandbox: starts loop and helper, restarts the helper, collects the dead, ends them all.

    supervisor (root with SETUID, SETGID, KILL only)
      ├─ loop       uid A, opens the link          ─┐ joined by a socketpair; when it breaks, the loop asks here
      ├─ helper     uid B, every file and command  ─┘ (over `control`) for a fresh helper
      └─ forwarder  uid A, only in tasks with egress: from loopback to the worker's proxy. The loop asks for it once,
                    and it is started again when it dies; its listener stays here, so that its port stays the same

Without user ids (sandbox `local`) the same processes run as one user.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from agent_runtime import protocol
from agent_runtime.channel import FAILED, FORWARD, MAX_CONTROL_BYTES, RESTART, STARTED, Channel
from agent_runtime.descriptors import send_descriptor
from agent_runtime.processes import Users, be_first_to_go, become, kill_all

RESTART_PATIENCE_S = 15.0
FORWARDER_STARTS = 20
"""A forwarder that dies more often is not started again: something is wrong that a start does not mend."""
EXIT_TERMINATED = 128 + signal.SIGTERM


class Options(NamedTuple):
    """Directories of the sandbox, and who runs as whom."""

    link: str
    objects: str
    work: str
    users: Users
    link_silence_s: float


class Supervisor:
    """Runs one sandbox. Everything happens in `run`, in one thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop_pid = 0
        self._exit_code: int | None = None
        self._listener: socket.socket | None = None
        self._forwarder_pid = 0
        self._forwarder_starts = 0
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._control, self._loop_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run(self) -> int:
        """Returns the loop's exit code once it has ended and nothing of the sandbox runs any more."""
        self._watch_signals()
        _import_everything()
        loop_end, helper_end = socket.socketpair()
        self._loop_pid = _fork(lambda: self._be_loop(loop_end, helper_end))
        _fork(lambda: self._be_helper(helper_end, loop_end))
        for end in (loop_end, helper_end, self._loop_control):
            end.close()
        while self._exit_code is None:
            ready, _, _ = select.select([self._wakeup, self._control], [], [])
            if self._wakeup in ready:
                self._handle_signals()
            if self._control in ready and self._exit_code is None:
                self._handle_request()
            if self._exit_code is None:
                self._keep_forwarding()
        self._kill_loop()
        self._kill_helper(collected=False)
        return self._exit_code

    def _watch_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def _handle_signals(self) -> None:
        received = self._wakeup.recv(4096)
        if signal.SIGTERM in received or signal.SIGINT in received:
            self._exit_code = EXIT_TERMINATED
        self._reap()

    def _reap(self) -> None:
        """Collect every dead child: as PID 1 we inherit the orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._loop_pid and self._exit_code is None:
                self._exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            if pid == self._loop_pid:
                self._loop_pid = 0
            if pid == self._forwarder_pid:
                self._forwarder_pid = 0

    def _handle_request(self) -> None:
        """What the loop wants. An end of file means that the loop is about to be reaped."""
        request = self._control.recv(MAX_CONTROL_BYTES)
        if request not in (RESTART, FORWARD):
            select.select([self._wakeup], [], [])
            return
        try:
            if request == FORWARD:
                self._control.send(str(self._listen_on_loopback()).encode())
                return
            end = self._restart_helper()
        except OSError as error:
            print(f"farhand: cannot {request.decode()}: {error}", file=sys.stderr)
            self._control.send(FAILED)
            return
        send_descriptor(self._control, STARTED, end.fileno())
        end.close()

    def _listen_on_loopback(self) -> int:
        """The port that the forwarder serves. In a container loopback is all ours, elsewhere a free port is taken."""
        if self._listener is None:
            port = protocol.EGRESS_PORT if os.getpid() == 1 else 0
            self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        number: int = self._listener.getsockname()[1]
        return number

    def _keep_forwarding(self) -> None:
        """Start the forwarder, or start it again: a command may have used up the memory or the processes it needs."""
        if self._listener is None or self._forwarder_pid or self._forwarder_starts >= FORWARDER_STARTS:
            return
        try:
            self._forwarder_pid = _fork(self._be_forwarder)
        except BlockingIOError:  # the next death of a process makes room, and brings us here again
            return
        self._forwarder_starts += 1
        if self._forwarder_starts == FORWARDER_STARTS:
            print("farhand: the forwarder has died too often: this is its last start", file=sys.stderr)

    def _restart_helper(self) -> socket.socket:
        """Kill all that runs as helper, and fork: the killed hold their places until they are collected."""
        deadline = time.monotonic() + RESTART_PATIENCE_S
        loop_end, helper_end = socket.socketpair()
        while True:
            self._kill_helper(collected=True)
            try:
                _fork(lambda: self._be_helper(helper_end, loop_end))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            helper_end.close()
            return loop_end

    def _kill_helper(self, *, collected: bool) -> None:
        spared = {self._loop_pid, self._forwarder_pid}
        kill_all(self._options.users, spared, self._options.work, self._reap, collected=collected)

    def _kill_loop(self) -> None:
        for pid in (self._loop_pid, self._forwarder_pid):
            if pid:
                os.kill(pid, signal.SIGKILL)

    def _be_loop(self, end: socket.socket, helper_end: socket.socket) -> int:
        from agent_runtime import loop
        from agent_runtime.helper_client import HelperClient
        from agent_runtime.link import Link

        self._forget_everything(helper_end, self._control)
        become(self._options.users.loop)
        link = Link(os.path.join(self._options.link, protocol.SOCKET), self._options.link_silence_s)
        repo = os.path.join(self._options.work, "repo")
        return loop.main(link, HelperClient(Channel(end), self._loop_control, repo))

    def _be_helper(self, end: socket.socket, loop_end: socket.socket) -> int:
        from agent_runtime import helper

        self._forget_everything(loop_end, self._control, self._loop_control)
        be_first_to_go()
        become(self._options.users.helper)
        return helper.main(Channel(end), self._options.work, self._options.objects)

    def _be_forwarder(self) -> int:
        from agent_runtime import forwarder

        listener = self._listener
        assert listener is not None  # it is why we are started  # noqa: S101
        self._forget_everything(self._control)
        be_first_to_go()
        become(self._options.users.loop)
        return forwarder.main(listener, os.path.join(self._options.link, protocol.EGRESS_SOCKET))

    def _forget_everything(self, *ends: socket.socket) -> None:
        """In a child: no signal handling and no socket of the supervisor is left."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for end in (*ends, self._wakeup, self._wakeup_end):
            end.close()


def _import_everything() -> None:
    """Before the forks, into pages that all three processes share: what they hold bounds how many fit a host."""
    for name in ("bz2", "lzma"):  # shutil would take them, for nothing that is done here
        sys.modules[name] = None  # type: ignore[assignment]
    from agent_runtime import helper, helper_client, link, loop  # noqa: F401

    # A collection writes into every object that it looks at, and by that copies its page.
    gc.freeze()


def _fork(body: Callable[[], int]) -> int:
    """Run `body` in a child and end it with the code that it returns. Returns the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = body()
    except BaseException:  # noqa: BLE001  (a child must never return into its parent's code)
        sys.excepthook(*sys.exc_info())  # not `traceback`, whose import every start would pay
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
