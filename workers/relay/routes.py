"""Where a task's model calls go: to the Messages API, or to a recording."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import InvalidInputError
from infra.models import REPLAY_PREFIX, Model, model_table, recording_path
from infra.settings import Settings
from workers.relay.assemble import StreamEvent
from workers.relay.replay import Replay

if TYPE_CHECKING:
    from workers.relay.upstream import Upstream


class Route(Protocol):
    """Where a task's model calls go."""

    model: str
    rates: Model | None
    """None: nothing is paid."""

    def stream(self, step: int, request: dict[str, Any], deadline: float) -> Generator[StreamEvent]:
        """The events of one try, over by `deadline` (monotonic, seconds). Closing it ends the call.

        Raises:
            TryFailedError: in every way in which a try can fail.
            TaskFailedError: another try cannot help.
        """
        ...


class ModelRoute:
    """The Messages API."""

    def __init__(self, upstream: Upstream, model: str, settings: Settings) -> None:
        self.model = model
        self.rates: Model | None = model_table(settings.model_prices).rates(model)
        self._upstream = upstream
        self._thinking = self.rates.thinking

    def stream(  # the seam's
        self,
        step: int,  # noqa: ARG002
        request: dict[str, Any],
        deadline: float,
    ) -> Generator[StreamEvent]:
        request = {**request, "model": self.model}
        if self._thinking:
            request["thinking"] = {"type": "adaptive", "display": "summarized"}
        return self._upstream.stream(_with_cache_marks(request), deadline)


class ReplayRoute:
    """A recording: free, and the same every time."""

    def __init__(self, model: str, settings: Settings) -> None:
        self.model = model
        self.rates: Model | None = None
        self._replay = Replay(recording_path(model, settings))

    def stream(  # the seam's
        self,
        step: int,
        request: dict[str, Any],  # noqa: ARG002
        deadline: float,  # noqa: ARG002
    ) -> Generator[StreamEvent]:
        return self._replay.stream(step, model=self.model)


def open_upstream(settings: Settings) -> Upstream | None:
    """None where no key is set: there only recordings play."""
    if not settings.anthropic_api_key.get_secret_value():
        return None
    from workers.relay.upstream import Upstream  # the SDK behind it takes seconds to import

    return Upstream(settings)


def choose_route(model: str, settings: Settings, upstream: Upstream | None) -> Route:
    """Raises InvalidInputError when the model or recording is no longer there, or the key for it."""
    if model.startswith(REPLAY_PREFIX):
        return ReplayRoute(model, settings)
    if upstream is None:
        raise InvalidInputError(
            "this worker has no model key",
            hint="Set FARHAND_ANTHROPIC_API_KEY for the workers too, restart them, then retry the task.",
            code="model_key_missing",
        )
    return ModelRoute(upstream, model, settings)


def _with_cache_marks(request: dict[str, Any]) -> dict[str, Any]:
    """Mark the instructions and the newest turn as cacheable: each step reads the whole conversation again."""
    *earlier, last = request["messages"]
    marked = {**request, "messages": [*earlier, {**last, "content": _last_marked(last["content"])}]}
    if request.get("system"):
        marked["system"] = _last_marked(request["system"])
    return marked


def _last_marked(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of `content` with a cache mark on the last one, unless it is of a kind that takes none."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if blocks[-1]["type"] in _UNMARKABLE:
        return blocks
    return [*blocks[:-1], {**blocks[-1], "cache_control": {"type": "ephemeral"}}]


_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})
