"""The loop's hands: asks the helper for everything that touches files, and gets a new helper when it dies."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, NamedTuple

from agent_runtime.channel import FORWARD, MAX_CONTROL_BYTES, RESTART, STARTED, Channel, Closed, Message
from agent_runtime.descriptors import receive_descriptor
from agent_runtime.endings import Failed, SandboxBroken
from agent_runtime.protocol import Limits, Workspace
from agent_runtime.tools import Output
from agent_runtime.tools.command import RUN_COMMAND, command_timeout_s

GRACE_S = 10.0
"""What the helper has over the time that a tool may take, before it counts as stuck."""

TOOL_TIMEOUT_S = 60.0
SNAPSHOT_TIMEOUT_S = 120.0
RESTART_TIMEOUT_S = 60.0
CHECKOUT_TRIES = 3


class HelperDied(Exception):
    """The helper was killed, or had to be, while it worked. All processes of the sandbox went with it."""


class Snapshot(NamedTuple):
    """`tree` is None when the work tree could not be recorded; `note` tells the model what it must know."""

    tree: str | None
    pack: bytes
    left_out: list[str]
    note: str


class HelperClient:
    """`control` leads to the supervisor, which starts helpers. `workspace` is the path the agent works in."""

    def __init__(self, channel: Channel, control: socket.socket, workspace: str) -> None:
        self.workspace = workspace
        self._channel = channel
        self._control = control
        self._proxy = ""
        self.environment: dict[str, str] = {}
        """What commands get besides their own."""

    def open_egress(self) -> None:
        """Commands are told from now on by which address they reach what the task may reach. Raises SandboxBroken."""
        self._control.settimeout(RESTART_TIMEOUT_S)
        try:
            self._control.send(FORWARD)
            answer = self._control.recv(MAX_CONTROL_BYTES)
        except OSError as error:
            raise SandboxBroken(f"the supervisor does not answer: {error}") from error
        if not answer.isdigit():
            raise SandboxBroken("the forwarder to the proxy could not be started")
        self._proxy = f"http://127.0.0.1:{answer.decode()}"

    def checkout(self, workspace: Workspace, timeout_s: float) -> tuple[str, str]:
        """Returns the id of the work tree, and what the repo's agent files say. Raises Failed."""
        for _ in range(CHECKOUT_TRIES):
            try:
                reply, _blob = self._ask({"do": "checkout", "workspace": workspace}, timeout_s)
            except HelperDied as death:
                reason = str(death)
                continue
            if "failed" in reply:
                raise Failed(**reply["failed"])
            return reply["tree"], reply["agent_files"]
        raise Failed("checkout_failed", f"The repository could not be checked out: {reason}", _SANDBOX_HINT)

    def setup(self, do: str, patience_s: float, /, **more: Any) -> tuple[Message, bytes]:
        """`run_setup`, `pack_setup` or `unpack_setup`, with the proxy that commands are told of. Raises HelperDied."""
        return self._ask({"do": do, "proxy": self._proxy, **more}, patience_s)

    def kill_all(self) -> None:
        """End whatever runs as helper, and go on with a fresh one."""
        self._restart()

    def call(self, tool: str, args: dict[str, Any], limits: Limits, time_left_s: float) -> Output:
        """Run a tool; its arguments have been checked. Raises HelperDied: the outcome is unknown."""
        request = {"do": "call", "tool": tool, "args": args, "limits": limits, "time_left_s": time_left_s}
        request["proxy"] = self._proxy
        request["environment"] = self.environment
        longest = command_timeout_s(limits, args) if tool == RUN_COMMAND.name else TOOL_TIMEOUT_S
        reply, _blob = self._ask(request, min(longest, time_left_s) + GRACE_S)
        return Output(reply["text"], reply["is_error"], reply["truncated"])

    def snapshot(self, parent: str, limits: Limits) -> Snapshot:
        """Record the work tree. Never raises for what the work tree is like: the note says what went wrong."""
        request = {"do": "snapshot", "parent": parent, "limits": limits}
        note = ""
        for _ in range(2):
            try:
                reply, pack = self._ask(request, SNAPSHOT_TIMEOUT_S)
            except HelperDied as death:
                note = f"\n[{death}]"
                continue
            return Snapshot(reply["tree"], pack, reply["left_out"], note + reply["note"])
        return Snapshot(None, b"", [], f"{note}\n[The changes in the workspace could not be recorded.]")

    def _ask(self, request: Message, timeout_s: float) -> tuple[Message, bytes]:
        try:
            self._channel.send(request)
        except Closed:  # it died earlier, while nobody looked: nothing of this request was done
            self._restart()
        else:
            return self._answer(timeout_s)
        with suppress(Closed):  # dead again: the answer will say so
            self._channel.send(request)
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> tuple[Message, bytes]:
        try:
            reply, blob = self._channel.receive(timeout_s)
        except Closed as error:
            self._restart()
            raise HelperDied("The sandbox helper was killed, and every process of the sandbox with it.") from error
        except TimeoutError as error:
            self._restart()
            raise HelperDied(
                f"The sandbox did not answer within {timeout_s:.0f} s; every process in it was killed."
            ) from error
        if "exhausted" in reply:
            self._restart()
            raise HelperDied(
                f"The sandbox ran out of processes or memory ({reply['exhausted']}); every process in it was killed."
            )
        return reply, blob

    def _restart(self) -> None:
        """The supervisor kills whatever runs and sends the socket of a fresh helper."""
        self._channel.close()
        self._control.settimeout(RESTART_TIMEOUT_S)
        try:
            self._control.send(RESTART)
            answer, descriptors = receive_descriptor(self._control, len(STARTED))
        except OSError as error:
            raise SandboxBroken(f"the supervisor does not answer: {error}") from error
        if answer != STARTED or not descriptors:
            raise SandboxBroken("the helper could not be started again")
        self._channel = Channel(socket.socket(fileno=descriptors[0]))


_SANDBOX_HINT = "Retry the task; if it stays, look at the sandbox's memory and disk limits."
