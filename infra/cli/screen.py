"""Where a watched task is shown: live on a terminal, as plain lines elsewhere, or as JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from infra.cli.story import Story, printable

Frame = Mapping[str, Any]

WRITING_LINES = 8
"""Of a message that is being written these many lines are shown."""
REFRESH_PER_S = 12


class Screen(Protocol):
    """Takes the frames of a stream. `note` is said to the person, never to a script."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...
    def show(self, frame: Frame) -> None: ...
    def note(self, text: str) -> None: ...


def screen(*, as_json: bool) -> Screen:
    """The one that fits standard output."""
    if as_json:
        return JsonScreen()
    console = Console(highlight=False)
    return TerminalScreen(console) if console.is_terminal else PlainScreen(console)


class JsonScreen:
    """One event a line on standard output, and nothing else there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, frame: Frame) -> None:
        if frame["type"] == "event":
            click.echo(json.dumps(frame["event"], ensure_ascii=False))
        elif frame["type"] == "connection" and not frame["up"]:
            self.note(f"connection lost ({frame['reason']}), coming back …")

    def note(self, text: str) -> None:
        click.echo(f"farhand: {text}", err=True)


class PlainScreen:
    """A line for each thing that happened."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.story = Story()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, frame: Frame) -> None:
        if frame["type"] == "event":
            for line in self.story.tell(frame["event"]):
                self.print(line)
        elif frame["type"] == "connection":
            reason = f"connection lost ({frame['reason']}), coming back …"
            self.note("connected again" if frame["up"] else reason)

    def note(self, text: str) -> None:
        self.print(Text(f"         {printable(text)}", style="yellow"))

    def print(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)


class TerminalScreen(PlainScreen):
    """The same lines, and below them what is being written, what is being done, for how long and at what cost."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._writing = _Writing()
        self._spinner = Spinner("dots")
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True, get_renderable=self._draw)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, frame: Frame) -> None:
        if frame["type"] == "event":
            self._writing.event(frame["event"])
        elif frame["type"] in {"delta", "partial"}:
            self._writing.piece(frame)
        super().show(frame)

    def _draw(self) -> RenderableType:
        story = self.story
        seconds = story.elapsed_s(datetime.now(UTC))
        facts = f" {story.doing} · step {story.step} · {seconds:.0f} s · ${story.spent_usd:.4f}"
        self._spinner.update(text=Text(facts, style="cyan", no_wrap=True, overflow="ellipsis"))
        text = self._writing.tail(WRITING_LINES)
        return Group(Text(text, style="dim"), self._spinner) if text else self._spinner


class _Writing:
    """The message that is being written, as far as it is known."""

    def __init__(self) -> None:
        self._message: tuple[int, ...] = ()
        self._parts: dict[int, str] = {}

    def piece(self, frame: Frame) -> None:
        """A delta adds to its part; a partial is all of it so far."""
        message = tuple(int(number) for number in frame["message_id"].split("."))
        if message < self._message:
            return
        if message > self._message:
            self._message, self._parts = message, {}
        index = frame["part"]["index"]
        before = "" if frame["type"] == "partial" else self._parts.get(index, "")
        self._parts[index] = before + frame["text"]

    def event(self, event: Frame) -> None:
        if event["type"] in {"message", "task_resumed", "completed", "failed", "cancelled"}:
            self._parts = {}

    def tail(self, lines: int) -> str:
        text = "\n".join(text for _, text in sorted(self._parts.items()))
        return "\n".join(printable(text).splitlines()[-lines:])
