"""What a loop that was taken over says on its link, and how to look at what came of it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from agent_runtime.protocol import HEADER_INBOX, HEADER_STEP
from tests.integration.relay.stage import RESULT, TOOLS, Sandbox
from tests.world import World

CALLS: dict[str, Any] = {
    "step": 1,
    "calls": [{"index": 0, "tool_use_id": "toolu_1", "tool": "run_command", "args": {}}],
}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "max_tokens": 100}


def ask(loop: Sandbox, step: int = 1, inbox: str = "", **changes: Any) -> tuple[int, Any, dict[str, str]]:
    return loop.ask("POST", "/v1/messages", ASK | changes, **{HEADER_STEP: str(step), HEADER_INBOX: inbox})


def result(**changes: Any) -> bytes:
    return json.dumps(RESULT | changes).encode() + b"\n"


def count(world: World, table: Any) -> int:
    with world.services.database.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def snapshot(world: World, task_id: UUID) -> tuple[Any, ...]:
    row = world.row(task_id)
    return row.last_seq, row.last_step, row.unread, row.status, row.spent_usd, row.reserved_usd


def speak(path: Path, *pieces: bytes) -> bytes:
    """Bytes as they are, and what comes back first."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        try:
            for piece in pieces:
                raw.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        return raw.recv(65536)


def speak_and_end(path: Path, request_: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        try:
            raw.sendall(request_)
            raw.shutdown(socket.SHUT_WR)
            return raw.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return b""
