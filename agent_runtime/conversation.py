"""The conversation with the model, as a function of the step records: the same after a resume as before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Dict

from agent_runtime.protocol import InboxMessage, StepRecord

Block = Dict[str, Any]

RESUMED = (
    "[The task goes on in a new sandbox. Files that git tracks or would track are as they were after the last "
    "recorded tool call. Files that git ignores, running processes and /tmp are gone.]"
)
GO_ON = "[Your answer was cut off at the output limit. Go on exactly where it stopped.]"
SAY_SOMETHING = "[Your answer was empty. Go on, or say in a few words what was done.]"
NOT_EXECUTED = (
    "This call was cut off and was not executed. If it is still needed, send it again, in smaller pieces: "
    "for example write a long file in several steps."
)
INTERRUPTED = (
    "This call was interrupted when its sandbox was lost. It may have run wholly, in part or not at all, and it "
    "is not run again by itself. Look at the state of the workspace before going on."
)


def system_prompt(instructions: str, workspace: str, agent_files: str) -> list[Block]:
    where = f"The workspace is {workspace}. Paths given to file tools are relative to it."
    text = "\n\n".join(part for part in (instructions.strip(), where, agent_files) if part)
    return [{"type": "text", "text": text}]


def messages(steps: Sequence[StepRecord], user_turn: Block | None) -> list[Block]:
    """Everything so far and the new turn, as `messages` of the Messages API."""
    turns: list[Block | None] = []
    for record in steps:
        turns += [record["user_turn"], _assistant_turn(record["response"])]
    return [turn for turn in [*turns, user_turn] if turn is not None]


def user_turn(blocks: Sequence[Block], inbox: Sequence[InboxMessage]) -> Block | None:
    """Tool results first (the API demands it), then what the user said."""
    content = [*blocks, *(text_block(message["text"]) for message in inbox)]
    return {"role": "user", "content": content} if content else None


def text_block(text: str) -> Block:
    return {"type": "text", "text": text}


def tool_result(call: Block, output: str, is_error: bool) -> Block:
    block = {"type": "tool_result", "tool_use_id": call["id"], "content": output}
    return {**block, "is_error": True} if is_error else block


def tool_uses(response: dict[str, Any]) -> list[Block]:
    return [block for block in response["content"] if block["type"] == "tool_use"]


def final_text(response: dict[str, Any]) -> str:
    return "\n\n".join(b["text"] for b in response["content"] if b["type"] == "text" and b["text"].strip())


def _assistant_turn(response: dict[str, Any]) -> Block | None:
    """The API refuses to be sent what a cut answer may contain: empty text, unsigned thinking, an empty turn."""
    content = [block for block in response["content"] if _can_be_sent_back(block)]
    return {"role": "assistant", "content": content} if content else None


def _can_be_sent_back(block: Block) -> bool:
    if block["type"] == "text":
        return bool(block["text"].strip())
    if block["type"] == "thinking":
        return bool(block.get("signature"))
    return True
