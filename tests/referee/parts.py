"""The processes of a deployment: each is started again when it ends, unless it shall be gone for a while.

    running   as it should be
    paused    stopped by SIGSTOP; nothing else is done to it until it goes on
    ended     its process is gone: started again once `down_until` has passed

A part that ends though nobody hurt it is written down in `ended_by_itself`: that is a defect of the product.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

RESTART_PAUSE_S = 0.25
STOP_S = 15.0
LOOK_S = 0.05


class Part:
    """One service in a session of its own. What it prints goes to `log`."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        log: Path,
        *,
        socket: int | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = dict(environment)
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._down_until: float | None = None
        """None: it shall run. Else it stays down until then, or for ever."""
        self._hurt = False
        self.ended_by_itself: list[str] = []

    @property
    def pid(self) -> int:
        """Of its process; that of the last one when it has ended. 0: it was never started."""
        return self._process.pid if self._process else 0

    def runs(self) -> bool:
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._lock, self.log.open("ab") as output:
            self._down_until, self._hurt = None, False
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=() if self._socket is None else (self._socket,),
            )

    def send(self, what: signal.Signals, *, whole_session: bool = False) -> None:
        """A signal that may end it, to its process alone or to all that it started."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process is None or self._process.poll() is not None:
                return
            if what not in (signal.SIGSTOP, signal.SIGCONT):
                self._hurt = True
            (os.killpg if whole_session else os.kill)(self._process.pid, what)

    def stay_down(self, seconds: float) -> None:
        """Once it ends, it is not started again before so many seconds have passed."""
        with self._lock:
            self._down_until = time.monotonic() + seconds

    def tend(self) -> None:
        """Start it again if it has ended and may run."""
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return
            if not self._hurt:
                self.ended_by_itself.append(f"{self.name} ended by itself with {self._process.returncode}")
                self._hurt = True
            if self._down_until is None:
                self._down_until = time.monotonic() + RESTART_PAUSE_S
            if time.monotonic() >= self._down_until:
                self.start()

    def begin_to_stop(self) -> None:
        self.stay_down(float("inf"))
        self.send(signal.SIGCONT, whole_session=True)
        self.send(signal.SIGTERM)

    def stop(self) -> bool:
        """Returns whether it ended in time; else it was killed."""
        self.begin_to_stop()
        if self._process is None:
            return True
        try:
            self._process.wait(STOP_S)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Keeper:
    """Looks after parts on a thread of its own."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def start(self, part: Part) -> Part:
        part.start()
        self.parts.append(part)
        return part

    def stop_all(self) -> list[str]:
        """Names of those that did not end when told to. A second call finds nothing more to do."""
        self._done.set()
        self._thread.join()
        parts, self.parts = self.parts, []
        for part in parts:
            part.begin_to_stop()
        return [part.name for part in reversed(parts) if not part.stop()]

    def _keep(self) -> None:
        while not self._done.wait(LOOK_S):
            for part in list(self.parts):
                part.tend()
