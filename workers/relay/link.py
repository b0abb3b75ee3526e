"""One attempt's answers to its sandbox: the worker's half of `agent_runtime.protocol`.

The link is the only place where a sandbox's words become records. It believes none of them: who the task is comes
from the lease, which model is asked and what it may cost from the task's row, and a step that is recorded is
answered from its record whatever the sandbox says.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent_runtime.protocol import Call, Calls, Finish, InboxMessage, Job, Result, SetupDone, StepRecord
from infra.errors import AuthorityLostError, FarhandError, InvalidInputError, TaskFailedError
from infra.services import Services
from infra.tasks import records
from infra.tasks.log import TaskRow
from infra.tasks.transitions import Lease, hold
from workers.git.repo import MAX_PACK_BYTES, checked_id
from workers.relay import asked
from workers.relay.assemble import StreamEvent, stream_events
from workers.relay.calls import Ask, ModelCaller
from workers.relay.masking import Mask
from workers.relay.routes import Route
from workers.relay.setup_intake import SetupIntake, SetupResult

log = logging.getLogger(__name__)

MAX_OUTPUT_CHARS = 256 * 1024
"""Of one tool result. The runtime keeps far less; who speaks instead of it does not get more into the database."""

MAX_FINAL_CHARS = 256 * 1024
_MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Flags:
    """What every reply carries."""

    cancel: bool
    unread: int


class Link:
    """Serves one attempt. Its methods are called from the server's threads, by one sandbox.

    `on_finish` gets the loop's end once, after it was accepted; `on_lost` is told when the lease turns out to be gone.
    `on_work` is told whenever the loop asks the model: by then it has its workspace. `suspended` says whether
    the worker is past its own deadline: then nothing leaves it.
    """

    def __init__(
        self,
        services: Services,
        lease: Lease,
        *,
        on_finish: Callable[[Finish], None],
        on_lost: Callable[[], None],
        suspended: Callable[[], bool],
        on_work: Callable[[], None] = lambda: None,
    ) -> None:
        self._services = services
        self._lease = lease
        self._on_finish = on_finish
        self._on_lost = on_lost
        self._on_work = on_work
        self.suspended = suspended
        self.cancelled = threading.Event()
        self.heard = False
        """Whether the sandbox has said anything since it got its job."""
        self._closed = threading.Event()
        self._job: Job | None = None
        self._mask = Mask()
        self._setup = SetupIntake()
        self._caller: ModelCaller | None = None
        self._max_tokens = 0
        self._model_call = threading.Lock()
        self._refused: dict[int, TaskFailedError] = {}
        self._unread = 0
        # Nobody else records steps while the lease is ours, so the recorded ones need not be read again.
        self._steps: dict[int, StepRecord] = {}
        # Instructions and tools of this attempt's last model call.
        self._frame: tuple[Any, Any] | None = None

    # ---- by the runner -----------------------------------------------------------------------------------------

    def assign(self, job: Job, route: Route, mask: Mask | None = None, setup: SetupResult | None = None) -> None:
        """The workspace is in place. Called before a server serves this link; again when a sandbox is replaced.

        What `mask` knows is in nothing that is recorded, published or sent to the model from now on.
        """
        self._mask = mask or Mask()
        self._setup = SetupIntake(setup)
        self._job = job
        self._steps = {record["step"]: record for record in job["steps"]}
        self._max_tokens = job["agent"]["max_tokens"]
        self._caller = ModelCaller(self._services, self._lease, route, agent=job["agent"]["name"], mask=self._mask)

    def close(self) -> None:
        """The attempt is over: a model call that is still in the air is given up at its next event."""
        self._closed.set()

    # ---- by the sandbox ----------------------------------------------------------------------------------------

    def job(self) -> Job:
        """What the sandbox is to do. Raises AuthorityLostError."""
        if self._job is None:
            raise InvalidInputError("no job is assigned yet")
        self._see(self._prove())
        return self._job

    def inbox(self) -> list[InboxMessage]:
        """The user's unread messages. Raises AuthorityLostError."""
        self._see(self._prove())
        with self._services.database.read() as connection:
            return records.inbox(connection, self._lease.task_id)

    @property
    def flags(self) -> Flags:
        """As of the last record that was read or written."""
        return Flags(self.cancelled.is_set(), self._unread)

    def messages(self, step: int, body: bytes, inbox: tuple[UUID, ...]) -> Iterator[list[StreamEvent]]:
        """The event stream of a step, recorded before its last event is yielded. What came together stays so.

        The call goes on when the sandbox lets go of the stream: what was paid for is recorded, and a repeat of the
        request is answered from that record.
        """
        self._on_work()
        self._setup.end()
        events: queue.SimpleQueue[StreamEvent | BaseException] = queue.SimpleQueue()
        request = self._mask.deep(asked.read_request(body, self._steps))
        threading.Thread(
            target=self._call_model, args=(step, request, inbox, events), name=f"step {step}", daemon=True
        ).start()
        return bursts(events)

    def calls(self, calls: Calls) -> None:
        """Announce calls of a recorded step. What they are says the record, not the sandbox.

        Raises:
            InvalidInputError: the model made no such call.
        """
        self._setup.end()
        calls = self._as_recorded(calls)
        with self._services.tasks.single_statement() as tx:
            row = records.record_calls(tx, self._lease, calls)
        self._see(row)

    def results(self, result: Result, pack: bytes) -> None:
        """Record a result. Raises InvalidInputError, and TaskFailedError when the task's changes are too much."""
        result, limit = _bounded(result, pack, self._mask), self._services.settings.task_work_bytes
        with self._services.tasks.single_statement() as tx:
            row = records.record_result(tx, self._lease, result, pack, limit=limit)
        self._see(row)

    def setup_part(self, offset: int, data: bytes) -> None:
        """A piece of what the project's setup script left. Raises as `SetupResult.part`."""
        self._setup.part(offset, data)

    def setup_done(self, done: SetupDone) -> None:
        """All of it has come. Raises as `SetupResult.done`, AuthorityLostError."""
        self._prove()
        self._setup.done({**done, "not_kept": [self._mask.text(str(name)) for name in done["not_kept"]]})

    def finish(self, finish: Finish) -> bool:
        """Accept the loop's end. False while a user message waits that no step contains."""
        row = self._prove()
        self._see(row)
        if finish["error"] is None and row.unread > 0:
            return False
        final = self._mask.text(finish["final_message"])[:MAX_FINAL_CHARS]
        self._on_finish({**finish, "final_message": final, "error": self._mask.deep(finish["error"])})
        return True

    def lost(self) -> None:
        """The lease is gone: whoever runs this attempt must stop it."""
        self._on_lost()

    def _as_recorded(self, calls: Calls) -> Calls:
        record = self._steps.get(calls["step"])
        content = record["response"]["content"] if record else []
        made = [block for block in content if block["type"] == "tool_use"]
        announced = [call["index"] for call in calls["calls"]]
        if not all(type(index) is int and 0 <= index < len(made) for index in announced):
            raise InvalidInputError(f"calls {announced} of step {calls['step']}, in which the model made {len(made)}")
        return {"step": calls["step"], "calls": [_call(index, made[index]) for index in announced]}

    def _prove(self) -> TaskRow:
        """The task's row, if it is still ours. Raises AuthorityLostError."""
        with self._services.tasks.single_statement() as tx:
            return hold(tx, self._lease)

    def _see(self, row: TaskRow) -> None:
        self._unread = row.unread

    def _call_model(
        self,
        step: int,
        request: dict[str, Any],
        inbox: tuple[UUID, ...],
        events: queue.SimpleQueue[StreamEvent | BaseException],
    ) -> None:
        try:
            # One call at a time: a repeat waits for the call in the air and is answered from its record.
            with self._model_call:
                self._answer(step, request, inbox, self._forward_to(events))
        except AuthorityLostError as error:
            self.lost()
            events.put(error)
        except TaskFailedError as error:
            # Final: the repeat of a stream that was cut by it is told the same, and nothing is asked again.
            self._refused[step] = error
            events.put(error)
        except FarhandError as error:
            events.put(error)
        except Exception as error:
            log.exception("a model call broke", extra={"action": "model_call_broke", "task_id": self._lease.task_id})
            events.put(error)

    def _forward_to(self, events: queue.SimpleQueue[StreamEvent | BaseException]) -> Callable[[StreamEvent], None]:
        def forward(event: StreamEvent) -> None:
            if self._closed.is_set():
                raise AuthorityLostError("the attempt is over")
            events.put(event)

        return forward

    def _answer(
        self, step: int, request: dict[str, Any], inbox: tuple[UUID, ...], forward: Callable[[StreamEvent], None]
    ) -> None:
        if self._caller is None:
            raise InvalidInputError("no job is assigned yet")
        if step in self._refused:
            raise self._refused[step]
        recorded = self._steps.get(step)
        previous = self._steps.get(step - 1)
        if recorded is not None:
            self._prove()
            for event in stream_events(recorded["response"], model=request.get("model", ""), message_id=str(step)):
                forward(event)
            return
        if step < 1 or (step > 1 and previous is None):
            raise InvalidInputError(f"step {step} before step {step - 1}")
        request["max_tokens"] = min(request["max_tokens"], self._max_tokens)
        user_turn = request["messages"][-1] if request["messages"][-1]["role"] == "user" else None
        frame = (request.get("system"), request.get("tools"))
        bound = asked.prompt_bound(request, step, self._steps, same_frame=frame == self._frame)
        self._steps[step] = self._caller.run(Ask(step, request, user_turn, inbox, bound), forward)
        self._frame = frame


def _call(index: int, use: dict[str, Any]) -> Call:
    return {"index": index, "tool_use_id": use["id"], "tool": use["name"], "args": use["input"]}


def _bounded(result: Result, pack: bytes, mask: Mask) -> Result:
    """As far as it can be kept. Raises InvalidInputError for what no runtime of ours sends."""
    if len(pack) > MAX_PACK_BYTES:
        raise InvalidInputError(f"a pack of {len(pack):,} bytes; {MAX_PACK_BYTES:,} are taken")
    given: dict[str, Any] = dict(result)
    for name in ("step", "index", "duration_ms"):
        if type(given[name]) is not int or not 0 <= given[name] <= _MAX_NUMBER:
            raise InvalidInputError(f"{name} is {str(given[name])[:40]}")
    for name in ("tree", "parent"):
        if given[name] is not None:
            checked_id(given[name])
    output = mask.output(result["output"])
    cut = len(output) > MAX_OUTPUT_CHARS
    return {
        **result,
        "output": output[:MAX_OUTPUT_CHARS],
        "truncated": bool(result["truncated"]) or cut,
        "is_error": bool(result["is_error"]),
        "left_out": [mask.text(str(name))[:1000] for name in result["left_out"][:100]],
    }


def bursts(events: queue.SimpleQueue[StreamEvent | BaseException]) -> Iterator[list[StreamEvent]]:
    """Whatever is there at a time: to wake the loop for each event by itself would cost more than most events.

    Ends after `message_stop`. Raises the exception that comes in place of an event, once those before it were yielded.
    """
    while True:
        burst: list[StreamEvent] = []
        event = events.get()
        while not isinstance(event, BaseException):
            burst.append(event)
            if event["type"] == "message_stop" or events.empty():
                break
            event = events.get()
        if burst:
            yield burst
        if isinstance(event, BaseException):
            raise event
        if event["type"] == "message_stop":
            return
