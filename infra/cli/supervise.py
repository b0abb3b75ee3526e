"""Runs services as children: in order, restarted when they die, stopped in reverse, none left behind.

    start      several at once; returns when they answer, says what it waits for
    watch      restarts whoever ends, with growing pauses, on the same data and address
    stop       those that were started last first: the stop signal, then KILL after a deadline

The processes of a supervisor that was killed are found by the next one through the files of `pids`, and stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from infra.cli.process import Identity, Service, kill_session, spawn
from infra.cli.signals import StopRequestedError
from infra.errors import FarhandError

START_DEADLINE_S = 120.0
SAY_AFTER_S = 2.0
SAY_AGAIN_S = 10.0
START_TRIES = 3
LONGEST_PAUSE_S = 30.0
HEALTHY_AFTER_S = 30.0
"""Having run for so long, a child that dies is restarted at once again."""
SHOWN_LINES = 15


class ServiceFailedError(FarhandError):
    """Read its log, correct the cause, then start again."""

    code = "service_failed"


@dataclass(slots=True)
class _Child:
    service: Service
    log: Path
    pid_file: Path
    process: Popen[bytes]
    started_at: float
    failures: int = 0
    restart_at: float | None = None
    answered: bool = field(default=False)

    def ended(self) -> bool:
        return self.process.poll() is not None


class Supervisor:
    """The children of one deployment.

    `logs` gets one file for each service. `pids` is a directory that survives us, for our successor. `wait` sleeps
    for so many seconds, may return early when a child ends, and raises StopRequestedError when we shall stop.
    """

    def __init__(
        self,
        *,
        logs: Path,
        pids: Path,
        say: Callable[[str], None],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._logs = logs
        self._pids = pids
        self._say = say
        self._wait = wait
        self._groups: list[list[_Child]] = []
        """What was started together, in order."""
        for directory in (logs, pids):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self, *services: Service) -> None:
        """Start services and return when all of them answer.

        Raises ServiceFailedError: one ended again and again, or did not answer within START_DEADLINE_S.
        """
        fresh: list[_Child] = []
        self._groups.append(fresh)
        fresh += [self._spawn(service) for service in services]
        since = time.monotonic()
        say_at = since + SAY_AFTER_S
        pause = 0.01
        while waiting := [child for child in fresh if not self._answers(child)]:
            for group in self._groups[:-1]:  # whom these may be waiting for
                self._tend(group)
            now = time.monotonic()
            if now > since + START_DEADLINE_S:
                raise self._failed(waiting[0], f"does not answer after {START_DEADLINE_S:.0f} s")
            if now > say_at:
                self._say(f"waiting for {_names(waiting)} ({now - since:.0f} s) …")
                say_at = now + SAY_AGAIN_S
            self._wait(pause)
            pause = min(pause * 1.5, 0.1)

    def watch(self) -> None:
        """Restart whoever ends, until StopRequestedError."""
        while True:
            children = [child for group in self._groups for child in group]
            self._tend(children)
            due = [child.restart_at - time.monotonic() for child in children if child.restart_at is not None]
            self._wait(max(0.0, min([1.0, *due])))

    def stop(self) -> None:
        """Stop all children. A second request to stop, meanwhile, kills what is left at once."""
        patient = True
        for group in reversed(self._groups):
            running = [child for child in group if not child.ended()]
            for child in running:
                child.process.send_signal(child.service.stop_signal)
            began = time.monotonic()
            try:
                for child in running if patient else ():
                    self._wait_for_end(child, began)
            except StopRequestedError:
                self._say("killing what is left")
                patient = False
            for child in group:
                self._end(child)
        self._groups.clear()

    def stop_leftovers(self) -> None:
        """Stop what a supervisor that was killed has left behind, so that its data can be opened again."""
        alive = []
        for file in self._pids.iterdir():
            found = Identity.read(file)
            if found is not None and found.is_alive():
                alive.append((file.name, found))
        if not alive:
            return
        self._say(f"stopping what an earlier start has left behind: {', '.join(name for name, _ in alive)}")
        for _, process in alive:
            # Their own stop signal reached them when their supervisor died; Postgres takes INT for a quick end.
            kill_session(process.pid, signal.SIGINT)
        deadline = time.monotonic() + 10
        while any(process.is_alive() for _, process in alive) and time.monotonic() < deadline:
            self._wait(0.05)
        for _, process in alive:
            if process.is_alive():
                kill_session(process.pid, signal.SIGKILL)

    def _spawn(self, service: Service) -> _Child:
        log, pid_file = self._logs / f"{service.name}.log", self._pids / service.name
        process = spawn(service, log)
        if identity := Identity.of(process.pid):
            identity.write(pid_file)
        return _Child(service, log, pid_file, process, time.monotonic())

    def _answers(self, child: _Child) -> bool:
        if not child.ended():
            child.answered = child.answered or child.service.ready()
            return child.answered
        child.answered = False
        if child.restart_at is None and child.failures + 1 >= START_TRIES:
            raise self._failed(child, f"ended with {_exit(child)} before it was ready")
        self._tend([child])
        return False

    def _tend(self, children: list[_Child]) -> None:
        for child in children:
            if child.ended():
                self._restart(child, time.monotonic())

    def _restart(self, child: _Child, now: float) -> None:
        """Plan the restart of a child that has ended, or carry out the plan when its time has come."""
        if child.restart_at is None:
            if now - child.started_at > HEALTHY_AFTER_S:
                child.failures = 0
            pause = min(0.25 * 2.0**child.failures, LONGEST_PAUSE_S)
            child.failures += 1
            child.restart_at = now + pause
            kill_session(child.process.pid, signal.SIGKILL)  # what it leaves would hold its port or its data
            self._say(f"{child.service.name} ended with {_exit(child)}, restart in {pause:g} s; see {child.log}")
        elif now >= child.restart_at:
            again = self._spawn(child.service)
            child.process, child.started_at, child.restart_at = again.process, again.started_at, None

    def _wait_for_end(self, child: _Child, began: float) -> None:
        deadline_s = child.service.stop_deadline_s
        say_at = began + SAY_AFTER_S
        while not child.ended() and (now := time.monotonic()) < began + deadline_s:
            if now > say_at:
                self._say(f"waiting for {child.service.name} to stop …")
                say_at += SAY_AGAIN_S
            self._wait(0.02)
        if not child.ended():
            self._say(f"{child.service.name} did not stop within {deadline_s:g} s, killing it")

    def _end(self, child: _Child) -> None:
        if not child.ended():
            kill_session(child.process.pid, signal.SIGKILL)
            child.process.wait()
        child.pid_file.unlink(missing_ok=True)

    def _failed(self, child: _Child, what: str) -> ServiceFailedError:
        return ServiceFailedError(
            f"{child.service.name} {what}; the end of {child.log}:\n{_tail(child.log)}",
            hint="Correct what its log says, then start again. `farhand doctor` checks what it needs.",
        )


def _names(children: list[_Child]) -> str:
    return ", ".join(child.service.name for child in children)


def _exit(child: _Child) -> str:
    code = child.process.returncode
    return signal.Signals(-code).name if code < 0 else str(code)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8000))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-SHOWN_LINES:])
