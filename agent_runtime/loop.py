"""The agent loop: ask the model, run the tools it calls, tell it the results; until a turn ends.

It holds the link and nothing else; whatever touches files or runs commands is the helper's, as another user.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from agent_runtime import conversation, protocol
from agent_runtime.conversation import Block
from agent_runtime.endings import (
    EXIT_CRASHED,
    EXIT_FINISHED,
    Completed,
    Ending,
    Failed,
    FinishRefused,
    Stop,
    WrongProtocol,
)
from agent_runtime.helper_client import HelperClient, HelperDied
from agent_runtime.link import Link, time_is_up
from agent_runtime.protocol import Call, Finish, Job, RecordedCall, Result, StepRecord
from agent_runtime.tools import TOOLS, Output, refusal

MAX_CUT_ANSWERS = 3
"""So often in a row an answer may be cut off at the output limit before that is a failure."""


def main(link: Link, helper: HelperClient) -> int:
    """Do one job. Returns the exit code; the worker has been told the ending, unless the code says otherwise."""
    try:
        AgentLoop(link, helper).run()
    except Stop as stop:
        print(f"farhand: {stop}", file=sys.stderr)
        return stop.exit_code
    except Ending as ending:  # the worker refuses to say what the job is: then nothing can be reported on it
        print(f"farhand: there is no job: {ending}", file=sys.stderr)
        return EXIT_CRASHED
    return EXIT_FINISHED


class AgentLoop:
    """One attempt at one task."""

    def __init__(self, link: Link, helper: HelperClient) -> None:
        self.link = link
        self.helper = helper
        self.job: Job = link.job()
        if self.job["protocol"] != protocol.VERSION:
            raise WrongProtocol(f"this is protocol {protocol.VERSION}, the worker speaks {self.job['protocol']}")
        self.limits = self.job["limits"]
        self.steps: list[StepRecord] = list(self.job["steps"])
        self.inbox = self.job["inbox"]
        self.deadline = time.monotonic() + self.limits["wall_clock_s"]
        self.resumed = self.job["attempt"] > 1 and bool(self.steps)
        self.tree: str | None = None
        self.system: list[Block] = []
        self.pending: list[Block] | None = []

    def run(self) -> None:
        """Work until the worker accepts how the run ended. Raises Stop when it must end without a word."""
        refused_at = -1
        while True:
            try:
                self.prepare()
                while True:
                    self.step()
            except Ending as ending:
                end = ending
            except Exception as problem:
                if not isinstance(problem, Stop):
                    self.report(_crashed(problem))
                raise
            if self.report(end):
                return
            if refused_at == len(self.steps):
                raise FinishRefused(f"nothing to go on with, and the worker does not accept: {end}")
            refused_at = len(self.steps)

    def prepare(self) -> None:
        """Check the workspace out and, after a resume, finish what the last recorded step began."""
        if self.tree:
            return
        if self.job.get("egress", False):
            self.helper.open_egress()
        self.helper.environment = self.job.get("environment", {})
        tree, agent_files = self._check_out()
        agent = self.job["agent"]
        self.system = conversation.system_prompt(agent["instructions"], self.helper.workspace, agent_files)
        self.tree = tree
        if self.steps:
            self.pending = self._not_executed(self.steps[-1])
            self.pending = self.react(self.steps[-1], self.job["calls"])

    def step(self) -> None:
        """`pending` is always what to go on with: should this turn be the end, that is a refused ending's sequel."""
        record = self.ask(self.pending)
        self.pending = self._not_executed(record)
        self.pending = self.react(record)

    def ask(self, blocks: list[Block] | None) -> StepRecord:
        """One model call: None sends the conversation as it is, a list becomes a user turn with the inbox."""
        self._check_limits()
        body, ids, turn = self._next_request(blocks)
        step = self.steps[-1]["step"] + 1 if self.steps else 1
        response = self.link.message(step, body, ids, self.deadline)
        self.steps.append(StepRecord(step=step, user_turn=turn, response=response))
        return self.steps[-1]

    def react(self, record: StepRecord, recorded: list[RecordedCall] | None = None) -> list[Block] | None:
        """What the next user turn says first. Raises Ending when the run is over."""
        reason = record["response"]["stop_reason"]
        if reason == "tool_use" and conversation.tool_uses(record["response"]):
            return self.run_calls(record, recorded or [])
        if reason == "pause_turn":
            return None
        if self._waiting_messages():
            return self._not_executed(record)
        if reason == "max_tokens":
            return self._after_cut(record)
        if reason in ("end_turn", "stop_sequence", "tool_use"):
            return self._after_end(record)
        raise _failed_for(reason)

    def run_calls(self, record: StepRecord, recorded: list[RecordedCall]) -> list[Block]:
        """Announce the calls of a step, run them in order, and return their results for the model."""
        uses = conversation.tool_uses(record["response"])
        known = {call["index"]: call for call in recorded}
        calls = [
            Call(index=index, tool_use_id=use["id"], tool=use["name"], args=use["input"])
            for index, use in enumerate(uses)
        ]
        if any(call["index"] not in known for call in calls):
            self.link.calls({"step": record["step"], "calls": calls})
        outcomes = [self._outcome(record["step"], call, known.get(call["index"])) for call in calls]
        return [conversation.tool_result(use, *outcomes[index]) for index, use in enumerate(uses)]

    def report(self, ending: Ending) -> bool:
        step = self.steps[-1]["step"] if self.steps else 0
        return self.link.finish(Finish(step=step, final_message=ending.final_message, error=ending.error))

    def _outcome(self, step: int, call: Call, recorded: RecordedCall | None) -> tuple[str, bool]:
        """Output and whether it is an error: as recorded, or by running the call now and recording it."""
        if recorded is None:
            return self._execute(step, call)
        if recorded["output"] is not None:
            return recorded["output"], recorded["is_error"]
        result = _result(step, call, Output(conversation.INTERRUPTED, is_error=True), 0.0)
        self.link.result(result, b"")
        return result["output"], result["is_error"]

    def _execute(self, step: int, call: Call) -> tuple[str, bool]:
        started = time.monotonic()
        output = refusal(call["tool"], call["args"], self.job["agent"]["tools"]) or self._run_tool(call)
        changes = call["tool"] in TOOLS and TOOLS[call["tool"]].changes_files
        seconds = time.monotonic() - started
        result, pack = _result(step, call, output, seconds), b""
        if changes and self.tree:
            snapshot = self.helper.snapshot(self.tree, self.limits)
            result["output"] += snapshot.note
            result["left_out"] = snapshot.left_out
            if snapshot.tree:
                result["parent"], result["tree"], pack = self.tree, snapshot.tree, snapshot.pack
                self.tree = snapshot.tree
        self.link.result(result, pack)
        return result["output"], result["is_error"]

    def _run_tool(self, call: Call) -> Output:
        left = max(self.deadline - time.monotonic(), 1.0)
        try:
            return self.helper.call(call["tool"], call["args"], self.limits, left)
        except HelperDied as death:
            return Output(f"{death} The outcome of this call is unknown.", is_error=True)

    def _next_request(self, blocks: list[Block] | None) -> tuple[dict[str, Any], list[str], Block | None]:
        """Body of the model call, ids of the inbox messages in it, and the user turn."""
        inbox: list[protocol.InboxMessage] = []
        turn = None
        if blocks is not None:
            inbox = self._waiting_messages()
            turn = conversation.user_turn(self._with_note(blocks), inbox) if blocks or inbox else None
            if turn is None:
                raise _nothing_to_do()
            self.inbox = []
        body = {
            "max_tokens": self.job["agent"]["max_tokens"],
            "system": self.system,
            "messages": conversation.messages(self.steps, turn),
            "tools": [TOOLS[name].definition() for name in self.job["agent"]["tools"] if name in TOOLS],
            "stream": True,
        }
        return body, [message["id"] for message in inbox], turn

    def _waiting_messages(self) -> list[protocol.InboxMessage]:
        """What the user said and no turn contains yet. The count in a reply may be older than that reply's end."""
        if not self.inbox and self.link.unread:
            self.inbox = self.link.inbox()
        return self.inbox

    def _check_out(self) -> tuple[str, str]:
        if self.job.get("setup"):
            from agent_runtime import setup  # few tasks need it, and every sandbox would pay for it

            return setup.check_out(self.link, self.helper, self.job, self.deadline)
        time_left = min(self.deadline - time.monotonic(), CHECKOUT_TIMEOUT_S)
        return self.helper.checkout(self.job["workspace"], time_left)

    def _with_note(self, blocks: list[Block]) -> list[Block]:
        """The first turn after a resume says what a new sandbox does not have."""
        resumed, self.resumed = self.resumed, False
        return [*blocks, conversation.text_block(conversation.RESUMED)] if resumed else blocks

    def _not_executed(self, record: StepRecord) -> list[Block]:
        """Every tool call must be answered, also one that came with another stop reason than `tool_use`."""
        uses = conversation.tool_uses(record["response"])
        return [conversation.tool_result(use, conversation.NOT_EXECUTED, is_error=True) for use in uses]

    def _after_cut(self, record: StepRecord) -> list[Block]:
        last = self.steps[-MAX_CUT_ANSWERS - 1 :]
        if len(last) > MAX_CUT_ANSWERS and all(r["response"]["stop_reason"] == "max_tokens" for r in last):
            raise _failed_for("max_tokens")
        return self._not_executed(record) or [conversation.text_block(conversation.GO_ON)]

    def _after_end(self, record: StepRecord) -> list[Block]:
        text = conversation.final_text(record["response"])
        nudge = conversation.text_block(conversation.SAY_SOMETHING)
        if text or (record["user_turn"] and nudge in record["user_turn"]["content"]):
            raise Completed(text)
        return [nudge]

    def _check_limits(self) -> None:
        if len(self.steps) - len(self.job["steps"]) >= self.limits["max_steps"]:
            raise Failed(
                "max_steps_reached",
                f"The task reached its limit of {self.limits['max_steps']} steps.",
                "The work so far is kept. Send a follow-up message to go on from here.",
            )
        if time.monotonic() >= self.deadline:
            raise time_is_up()


CHECKOUT_TIMEOUT_S = 600.0

_FAILURES = {
    "refusal": (
        "model_refused",
        "The model refused to go on with this task.",
        "Rephrase the request in a follow-up message.",
    ),
    "model_context_window_exceeded": (
        "context_exceeded",
        "The conversation has grown beyond what the model can read.",
        "The work so far is kept. Start a new task for the rest.",
    ),
    "max_tokens": (
        "max_tokens_reached",
        f"The model's answer was cut off at the output limit {MAX_CUT_ANSWERS + 1} times in a row.",
        "Ask for smaller pieces in a follow-up message, or raise the agent's output limit.",
    ),
}


def _failed_for(reason: Any) -> Failed:
    unknown = (
        "unknown_stop_reason",
        f"The model stopped for a reason that this version does not know: {reason!r}.",
        "The work so far is kept. Retry the task; if it stays, update Farhand.",
    )
    return Failed(*_FAILURES.get(str(reason), unknown))


def _nothing_to_do() -> Failed:
    return Failed("nothing_to_do", "There is no message to answer.", "Send a message that says what to do.")


def _crashed(bug: Exception) -> Failed:
    return Failed(
        "runtime_error",
        f"The agent loop failed: {type(bug).__name__}: {bug}",
        "This is a bug in Farhand; the sandbox's log has the details. Retry the task.",
    )


def _result(step: int, call: Call, output: Output, seconds: float) -> Result:
    return Result(
        step=step,
        index=call["index"],
        output=output.text,
        is_error=output.is_error,
        truncated=output.truncated,
        duration_ms=round(seconds * 1000),
        tree=None,
        parent=None,
        left_out=[],
    )
