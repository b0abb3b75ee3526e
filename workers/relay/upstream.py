"""The Messages API through the `anthropic` SDK: one streamed try of one call, and what its failure means.

Retries are not the SDK's: a try holds money, so each is made (and accounted for) by `workers.relay.calls`. The SDK
takes seconds to import, so this module is imported only where there is a key to use it with.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, cast

import anthropic
import httpx2
from anthropic import Stream

from infra.errors import TaskFailedError
from infra.settings import Settings
from workers.relay import words
from workers.relay.assemble import StreamBrokenError, StreamEvent
from workers.relay.failures import TryFailedError
from workers.relay.reply import BoundedReply, time_left

CONNECT_TIMEOUT_S = 10.0
_RETRYABLE = frozenset({408, 409, 429})


class Upstream:
    """A client of one Messages API. Thread-safe; its connections are kept alive between calls."""

    def __init__(self, settings: Settings) -> None:
        self._idle_s = settings.model_idle_timeout
        self._client = anthropic.Anthropic(
            api_key=settings.anthropic_api_key.get_secret_value(),
            base_url=settings.anthropic_base_url,
            max_retries=0,
        )

    def close(self) -> None:
        """Give back the connections that are kept alive."""
        self._client.close()

    def stream(self, request: dict[str, Any], deadline: float) -> Generator[StreamEvent]:
        """The events of one streamed call, pings included, as the API sent them, over by `deadline` (monotonic, s).

        Raises:
            TryFailedError: for every way in which a call can fail, a stream cut short included.
        """
        accepted = False
        try:
            create = self._client.messages.with_streaming_response.create
            with create(**request, stream=True, timeout=self._timeout(deadline)) as response:
                accepted = True
                yield from _decode(BoundedReply(response.http_response, deadline))
        except anthropic.APIStatusError as error:
            raise _refused(error) from error
        except (anthropic.APIConnectionError, httpx2.HTTPError, StreamBrokenError, UnicodeDecodeError) as error:
            never_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
            if not accepted and never_sent:
                raise TryFailedError(
                    f"the model's service can't be reached: {error.__cause__}", accepted=False
                ) from error
            raise TryFailedError(
                f"the connection to the model broke: {error.__cause__ or error}", accepted=True
            ) from error

    def _timeout(self, deadline: float) -> anthropic.Timeout:
        """How long each read may be silent."""
        left = time_left(deadline, accepted=False)
        return anthropic.Timeout(min(self._idle_s, left), connect=min(CONNECT_TIMEOUT_S, left))


def _decode(reply: BoundedReply) -> Iterator[StreamEvent]:
    for sse in Stream.raw_events(cast("httpx2.Response", reply)):
        if not sse.data:
            continue
        try:
            event: Any = words.read(sse.data)
        except ValueError as error:
            raise StreamBrokenError(f"not JSON: {sse.data[:80]!r}") from error
        if not isinstance(event, dict) or "type" not in event:
            raise StreamBrokenError(f"not an event: {sse.data[:80]!r}")
        if event["type"] == "error":
            detail = event.get("error") or {}
            raise TryFailedError(f"the model broke off: {detail.get('type')}: {detail.get('message')}", accepted=True)
        yield event


def _refused(error: anthropic.APIStatusError) -> TryFailedError:
    reason = f"the model's service answered {error.status_code}: {_said(error)}"
    final = None
    if error.status_code < 500 and error.status_code not in _RETRYABLE:
        final = _final(error, reason)
    return TryFailedError(
        reason, accepted=False, final=final, retry_after=_retry_after(error), request_id=error.request_id
    )


def _final(error: anthropic.APIStatusError, reason: str) -> TaskFailedError:
    text = _said(error).lower()
    match error.status_code:
        case 401 | 403:
            code, hint = "model_key_invalid", "The operator has to set a valid FARHAND_ANTHROPIC_API_KEY; then retry."
        case 402:
            code, hint = "model_account_empty", "The account of the model key needs credit; then retry."
        case 404:
            code, hint = "unknown_model", "Start the task again with another model."
        case 413:
            code, hint = "context_exceeded", _CONTEXT_HINT
        case 400 if "too long" in text or "context" in text:
            code, hint = "context_exceeded", _CONTEXT_HINT
        case _:
            code, hint = "model_refused_request", "Report this: the request was not one that the API takes."
    return TaskFailedError(reason, code=code, hint=hint)


def _said(error: anthropic.APIStatusError) -> str:
    return str(error) if error.api_message is None else error.api_message


_CONTEXT_HINT = "The conversation is longer than the model's context. Start a new task, split into smaller parts."


def _retry_after(error: anthropic.APIStatusError) -> float | None:
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
