"""Watching a task until it ends, and what Ctrl-C means meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from infra.cli.errors import CANCELLED, FAILED
from infra.cli.screen import PlainScreen, Screen
from infra.cli.story import diff_lines
from infra.client import Client
from infra.errors import FarhandError

TICK_S = 0.2
DIFF_LINES = 400

_EXIT_CODES = {"completed": 0, "failed": FAILED, "cancelled": CANCELLED}


def watch_task(client: Client, task_id: str, screen: Screen, *, after: int = 0, cancels: bool) -> int:
    """Show a task until it has ended; returns the exit code that says how.

    Ctrl-C asks the server to cancel the task, if `cancels`; once more, or without `cancels`, it stops watching.
    """
    ask = (lambda: _cancel(client, task_id, screen)) if cancels else None
    try:
        with screen, _interrupts(ask) as tend:
            for frame in client.stream(task_id, after=after, tick_s=TICK_S):
                tend()
                screen.show(frame)
    except KeyboardInterrupt:
        screen.note(f"left; the task is still there: farhand watch {task_id}")
        return CANCELLED
    return _EXIT_CODES.get(client.task(task_id)["status"], FAILED)


def show_diff(client: Client, task_id: str, screen: PlainScreen) -> None:
    """The diff at the end, or as much of it as is pleasant."""
    lines = list(diff_lines(client.diff(task_id)))
    for line in lines[:DIFF_LINES]:
        screen.print(line)
    if len(lines) > DIFF_LINES:
        screen.note(f"{len(lines) - DIFF_LINES} more lines: farhand diff {task_id}")


@contextmanager
def _interrupts(first: Callable[[], None] | None) -> Iterator[Callable[[], None]]:
    """Yields a function to be called often: it does `first` after the first Ctrl-C. The second one interrupts."""
    asked: list[bool] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (what signal() calls)
        if first is None or asked:
            raise KeyboardInterrupt
        asked.append(False)

    def tend() -> None:
        if first is not None and asked == [False]:
            asked[0] = True
            first()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield tend
    finally:
        signal.signal(signal.SIGINT, previous)


def _cancel(client: Client, task_id: str, screen: Screen) -> None:
    screen.note("cancelling the task … (Ctrl-C again leaves at once)")
    try:
        client.cancel(task_id)
    except FarhandError as error:
        screen.note(f"it could not be cancelled: {error.message}. {error.hint}")
