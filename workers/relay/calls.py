"""One model call of a step: hold the money, ask, stream, record, settle (G3, G9).

What happens when the worker dies at each point:

    after the hold, before the answer    the next attempt counts the hold as lost and asks again
    in the middle of the stream          the same; its deltas are void since `task_resumed` follows
    after the last byte, before commit   the same: not recorded means not received
    after the commit                     the step is recorded, and never asked again

The step record, its events and the settlement are one statement, committed before `message_stop` is passed on.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from agent_runtime.protocol import StepRecord, message_id
from infra.db import patiently
from infra.errors import BudgetExceededError, TaskFailedError
from infra.models import Usage
from infra.services import Services
from infra.tasks import budget, records
from infra.tasks.budget import Hold, Payment
from infra.tasks.log import Data
from infra.tasks.transitions import Lease
from workers.relay.assemble import Assembly, StreamBrokenError, StreamEvent
from workers.relay.deltas import DeltaPublisher
from workers.relay.failures import TryFailedError
from workers.relay.routes import Route

log = logging.getLogger(__name__)

MIN_ANSWER_TOKENS = 1024
"""A call that the budget leaves fewer tokens for is not made: it would be cut off in the middle."""

_BACKOFF_S = (0.5, 30.0)
_FREE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the loop sent for one step. `prompt_tokens` bounds the tokens of its prompt from above."""

    step: int
    request: dict[str, Any]
    user_turn: dict[str, Any] | None
    inbox: tuple[UUID, ...]
    prompt_tokens: int


class ModelCaller:
    """Makes the model calls of one attempt, one at a time."""

    def __init__(self, services: Services, lease: Lease, route: Route, *, agent: str) -> None:
        self._agent = agent
        self._services = services
        self._settings = services.settings
        self._lease = lease
        self._route = route

    def run(self, ask: Ask, forward: Callable[[StreamEvent], None]) -> StepRecord:
        """Ask until one try is complete; each of its events goes to `forward`, the last after the commit.

        Events of a failed try are never followed by a `message_stop`, so a loop that saw them starts over.

        Raises:
            AuthorityLostError: another attempt owns the task.
            BudgetExceededError: the call could pass the budget.
            TaskFailedError: the model refused, or `model_unavailable` once the deadline has passed.
        """
        deadline = time.monotonic() + self._settings.model_deadline
        backoff, limit = _BACKOFF_S
        while True:
            try:
                return self._try_once(ask, forward, deadline)
            except TryFailedError as error:
                pause = max(error.retry_after or 0.0, backoff * random.uniform(0.5, 1.0))  # noqa: S311  (jitter)
                self._report(ask, error, pause)
                if error.final is not None:
                    raise error.final from error
                if time.monotonic() + pause >= deadline:
                    raise _unavailable(error, self._settings.model_deadline) from error
                time.sleep(pause)
                backoff = min(backoff * 2, limit)

    def _try_once(self, ask: Ask, forward: Callable[[StreamEvent], None], deadline: float) -> StepRecord:
        held, request = self._reserve(ask)
        try:
            assembly, last = self._receive(ask, held, request, forward, deadline)
        except TryFailedError as error:
            self._give_up(held, error)
            raise
        # What was paid for is recorded however long Postgres is away; a repeat of the transaction changes nothing.
        patiently(lambda: self._record(ask, held, assembly))
        forward(last)
        return {"step": ask.step, "user_turn": ask.user_turn, "response": assembly.response}

    def _reserve(self, ask: Ask) -> tuple[Hold, dict[str, Any]]:
        """Hold what the call can cost at most. Close to the end of the budget the answer's length shrinks."""
        wanted = int(ask.request["max_tokens"])
        try:
            return self._hold(ask, wanted), ask.request
        except BudgetExceededError:
            tokens = self._affordable(ask)
            if tokens < min(wanted, MIN_ANSWER_TOKENS):
                raise
            return self._hold(ask, tokens), {**ask.request, "max_tokens": tokens}

    def _hold(self, ask: Ask, max_tokens: int) -> Hold:
        rates = self._route.rates
        bound = rates.bound(prompt_tokens=ask.prompt_tokens, max_tokens=max_tokens) if rates else _FREE
        return budget.reserve(self._services.tasks, self._lease, step=ask.step, model=self._route.model, amount=bound)

    def _affordable(self, ask: Ask) -> int:
        """How long an answer the rest of the budget pays for, in tokens."""
        rates = self._route.rates
        if rates is None:
            return 0
        with self._services.tasks.transaction() as tx:
            left = budget.remaining(tx, self._lease)
        prompt = rates.bound(prompt_tokens=ask.prompt_tokens, max_tokens=0)
        a_million = rates.bound(prompt_tokens=ask.prompt_tokens, max_tokens=1_000_000) - prompt
        return int(max(left - prompt, _FREE) / a_million * 1_000_000)

    def _receive(
        self,
        ask: Ask,
        held: Hold,
        request: dict[str, Any],
        forward: Callable[[StreamEvent], None],
        deadline: float,
    ) -> tuple[Assembly, StreamEvent]:
        assembly = Assembly()
        name = message_id(ask.step, held.try_)
        with DeltaPublisher(self._services.bus, self._lease.task_id, name) as deltas:
            stream = self._route.stream(ask.step, request, deadline)
            try:
                for event in stream:
                    _feed(assembly, event)
                    if assembly.done:
                        _let_end(stream)
                        return assembly, event
                    deltas.feed(event)
                    forward(event)
            except BaseException:
                stream.close()  # the loop is gone, or the lease: the rest of the answer would be paid for nothing
                raise
        raise TryFailedError("the stream ended before message_stop", accepted=True)

    def _record(self, ask: Ask, held: Hold, assembly: Assembly) -> None:
        usage = assembly.usage
        cost = self._route.rates.cost(usage) if self._route.rates else _FREE
        spent = held.spent_before + cost
        new = records.NewStep(
            step=ask.step,
            user_turn=ask.user_turn,
            response=assembly.response,
            text=assembly.texts("text"),
            inbox=ask.inbox,
            events=(
                *self._message_events(message_id(ask.step, held.try_), assembly),
                self._usage_event(ask.step, usage, cost_usd=float(cost), spent_usd=float(spent)),
            ),
            paid=Payment(held.call_id, cost, usage.model_dump()),
        )
        with self._services.tasks.single_statement() as tx:
            records.record_step(tx, self._lease, new)

    def _message_events(self, name: str, assembly: Assembly) -> list[tuple[str, Data]]:
        message: tuple[str, Data] = (
            "message",
            {
                "message_id": name,
                "role": "assistant",
                "text": assembly.texts("text"),
                "stop_reason": assembly.response["stop_reason"],
            },
        )
        if thinking := assembly.texts("thinking"):
            return [("thinking", {"message_id": name, "text": thinking, "agent_type": self._agent}), message]
        return [message]

    def _usage_event(self, step: int, usage: Usage, **money: float) -> tuple[str, Data]:
        return ("usage", {"step": step, "model": self._route.model, **usage.model_dump(), **money})

    def _give_up(self, held: Hold, error: TryFailedError) -> None:
        close = budget.lose if error.accepted else budget.release
        with self._services.tasks.transaction() as tx:
            close(tx, self._lease, held, error.reason[:1000])

    def _report(self, ask: Ask, error: TryFailedError, pause: float) -> None:
        """Nothing waits silently: the user sees why there is no answer yet."""
        log.warning(
            "model call failed: %s", error.reason, extra={"action": "model_try_failed", "task_id": self._lease.task_id}
        )
        if error.final is None:
            text = f"step {ask.step}: {error.reason}; trying again in {pause:.0f} s"
            with self._services.tasks.transaction() as tx:
                records.append_event(tx, self._lease, ("error", {"code": "model_try_failed", "message": text[:1000]}))


def _feed(assembly: Assembly, event: StreamEvent) -> None:
    try:
        assembly.feed(event)
    except StreamBrokenError as error:
        raise TryFailedError(str(error), accepted=True) from error


def _let_end(stream: Iterator[StreamEvent]) -> None:
    """Read what follows the last event (the end of the reply), so that the connection can be used again."""

    def read() -> None:
        with contextlib.suppress(TryFailedError):
            deque(stream, maxlen=0)

    threading.Thread(target=read, name="end of a reply", daemon=True).start()


def _unavailable(error: TryFailedError, deadline: float) -> TaskFailedError:
    return TaskFailedError(
        f"no answer from the model within {deadline:.0f} s; the last try: {error.reason}",
        hint="The work so far is kept. Retry the task once the model's service is well again.",
        code="model_unavailable",
    )
