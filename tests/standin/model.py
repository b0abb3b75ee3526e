"""A model behind Anthropic's Messages API over HTTP, streaming or not, that plays trajectories.

    with ModelStandIn({"fix": [turn, turn, …]}) as model:
        client = anthropic.Anthropic(base_url=model.base_url, api_key="any")

`tests.standin.trajectory` says how trajectories are written, `tests.standin.validation` what is refused.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import click

from tests.standin.loopback import LoopbackServer, wait_for_interrupt
from tests.standin.model_handler import ModelHandler
from tests.standin.model_request import ModelRequest
from tests.standin.request_log import RequestLog
from tests.standin.trajectory import Json, NoTurn, Repertoire, Turn, TurnSpec, conversation_key
from tests.standin.validation import Refused, check_body, check_headers


class ModelStandIn(LoopbackServer):
    """The server. Started by `with` or `start`/`stop`; stopping ends every reply that is still in the air.

    `default` names the trajectory of a conversation without a mark (the only one if there is one, else "default").
    `api_key` None accepts any. `models` are the accepted ids, `*` matching anything. `delay_s` is added to every turn.
    """

    def __init__(
        self,
        trajectories: Mapping[str, Sequence[TurnSpec]],
        *,
        default: str | None = None,
        models: Sequence[str] = ("claude-*",),
        api_key: str | None = None,
        delay_s: float = 0.0,
        port: int = 0,
    ) -> None:
        self.delay_s = delay_s
        self.log: RequestLog[ModelRequest] = RequestLog()
        self.errors: list[Exception] = []  # what turns written as functions raised; leaving `with` raises the first
        self._repertoire = Repertoire(trajectories, default)
        self._models = models
        self._api_key = api_key
        self._asked: Counter[tuple[str, str, int]] = Counter()
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        super().__init__(ModelHandler, port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if self.errors and exception_type is None:
            raise self.errors[0]

    @property
    def requests(self) -> list[ModelRequest]:
        """Every `POST /v1/messages` so far, refused ones included, in order of arrival."""
        return self.log.snapshot()

    def wait_for_requests(self, count: int, timeout: float = 10.0) -> list[ModelRequest]:
        """The requests once there are `count` of them. Raises TimeoutError."""
        return self.log.wait_until(lambda requests: len(requests) >= count, timeout)

    def wait_until(self, reached: Callable[[list[ModelRequest]], bool], timeout: float = 10.0) -> list[ModelRequest]:
        """The requests once `reached(requests)`; asked again on every arrival and every change. Raises TimeoutError."""
        return self.log.wait_until(reached, timeout)

    def wait_for_held(self, gate: str, count: int = 1, timeout: float = 10.0) -> list[ModelRequest]:
        """The requests that `gate` holds at this moment, once there are `count`. Raises TimeoutError."""

        def held(requests: list[ModelRequest]) -> list[ModelRequest]:
            return [request for request in requests if request.held_at == gate]

        return held(self.log.wait_until(lambda requests: len(held(requests)) >= count, timeout))

    def gate(self, name: str) -> threading.Event:
        with self._lock:
            return self._gates.setdefault(name, threading.Event())

    def open_gate(self, name: str) -> None:
        """Let go of all that is held at this gate. It stays open."""
        self.gate(name).set()

    def close_gate(self, name: str) -> None:
        self.gate(name).clear()

    def answer(self, request: ModelRequest) -> Turn:
        """The turn to play. Raises Refused where the real API would refuse the request, or the script ends."""
        check_headers(request.headers, self._api_key)
        try:
            check_body(request.body, self._models, self._pauses_at)
            return self._choose(request)
        except NoTurn as no_turn:
            raise Refused(400, f"stand-in: {no_turn}") from no_turn

    def _pauses_at(self, messages: list[Json], ordinal: int) -> bool:
        return self._repertoire.find(messages).pauses_at(ordinal)

    def _choose(self, request: ModelRequest) -> Turn:
        messages = request.body["messages"]
        trajectory = self._repertoire.find(messages)
        ordinal = sum(1 for message in messages if message["role"] == "assistant")
        key = (trajectory.name, conversation_key(messages), ordinal)
        with self._lock:
            asked_before = self._asked[key]
            self._asked[key] += 1
        self.log.update(request, trajectory=trajectory.name, turn=ordinal)
        turn = trajectory.turn(request.body, ordinal, asked_before)
        self.log.update(request, fault=turn.fault)
        return turn


def read_trajectories(path: Path) -> dict[str, list[Any]]:
    """A JSON file holds one trajectory (a list) or several (an object of lists)."""
    content: list[Any] | dict[str, list[Any]] = json.loads(path.read_text())
    return {"default": content} if isinstance(content, list) else content


@click.command()
@click.option(
    "--trajectory",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="JSON: a list of turns, or an object of such lists by name.",
)
@click.option("--port", default=0, help="0 takes a free one.")
@click.option("--delay", "delay_s", default=0.0, help="Seconds before the first byte of every turn.")
@click.option("--default", help="The trajectory of a conversation without a [trajectory:NAME] mark.")
@click.option("--model", "models", multiple=True, default=["claude-*"], help="An accepted model id; may be repeated.")
@click.option("--api-key", help="The only accepted key. Any is, unless given.")
def main(trajectory: Path, **options: Any) -> None:
    """Play trajectories over the Messages API on 127.0.0.1 until interrupted."""
    with ModelStandIn(read_trajectories(trajectory), **options) as model:
        click.echo(f"ready {model.base_url}")
        wait_for_interrupt()


if __name__ == "__main__":
    main()
