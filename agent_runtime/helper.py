"""The helper: does for the loop what touches files, as the user that the agent's commands run as.

It holds nothing worth stealing, and may be killed at any time: it keeps no state that a new one would miss.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent_runtime.channel import Channel, Closed, Message
from agent_runtime.checkout import CheckoutFailed, checkout
from agent_runtime.protocol import SETUP_ARCHIVE
from agent_runtime.sandbox_paths import Paths
from agent_runtime.snapshot import Snapshots
from agent_runtime.tools import TOOLS, Output, ToolError
from agent_runtime.tools.command import proxy_environment, run_script
from agent_runtime.tools.specification import Context

if TYPE_CHECKING:
    from agent_runtime import setup_files


_ADVICE = {
    errno.ENOSPC: "The disk of the sandbox is full: remove what is not needed (du -sh * shows where it is).",
    errno.EDQUOT: "The disk of the sandbox is full: remove what is not needed (du -sh * shows where it is).",
    errno.EIO: "The disk of the sandbox does not work. Nothing more can be done here.",
    errno.E2BIG: "The command is too long. Write it to a file and run that.",
}


def main(channel: Channel, work: str, objects: str) -> int:
    """Serve the loop until it is gone."""
    helper = Helper(Paths(work, objects))
    while True:
        try:
            request, _blob = channel.receive()
            channel.send(*helper.answer(request))
        except Closed:
            return 0


class Helper:
    """`answer` is all there is; a reply with `exhausted` asks for a fresh helper in an emptied sandbox."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._untouched = False
        self._archive: setup_files.Archive | None = None
        self._duties: dict[str, Callable[[Message], tuple[Message, bytes]]] = {
            "checkout": self._checkout,
            "call": self._call,
            "snapshot": self._snapshot,
            "run_setup": self._run_setup,
            "pack_setup": self._pack_setup,
            "unpack_setup": self._unpack_setup,
        }
        os.makedirs(paths.home, exist_ok=True)
        os.makedirs(paths.state, mode=0o700, exist_ok=True)
        self._snapshots = Snapshots(paths)

    def answer(self, request: Message) -> tuple[Message, bytes]:
        try:
            return self._duties[request["do"]](request)
        except (BlockingIOError, MemoryError) as error:  # fork says EAGAIN at the limit of processes
            return {"exhausted": str(error) or "no memory"}, b""

    def _checkout(self, request: Message) -> tuple[Message, bytes]:
        try:
            tree, agent_files = checkout(self._paths, request["workspace"])
        except CheckoutFailed as failed:
            return {"failed": failed.failure}, b""
        self._untouched = True
        self._snapshots.start_from(tree)
        return {"tree": tree, "agent_files": agent_files}, b""

    def _call(self, request: Message) -> tuple[Message, bytes]:
        if self._untouched:
            self._snapshots.vouch_for_index()
            self._untouched = False
        context = Context(self._paths, request["limits"], request["time_left_s"], request.get("proxy", ""))
        context = context._replace(environment=request.get("environment", {}))
        output = _run(request["tool"], context, request["args"])
        return output._asdict(), b""

    def _run_setup(self, request: Message) -> tuple[Message, bytes]:
        given = {**request["environment"], **proxy_environment(request["proxy"])}
        done = run_script(self._paths, request["script"], given, request["timeout_s"])
        return {"failure": done.failure, "output": done.output}, b""

    def _pack_setup(self, request: Message) -> tuple[Message, bytes]:
        from agent_runtime import setup_files  # few tasks need it, and every sandbox would pay for it

        try:
            if request["first"] or self._archive is None:
                self._archive = setup_files.Archive(self._paths)
            part = self._archive.part()
            names = setup_files.not_kept(self._paths) if part.last else []
        except setup_files.SetupProblem as problem:
            return {"problem": str(problem)}, b""
        return {"last": part.last, "not_kept": names}, part.data

    def _unpack_setup(self, _request: Message) -> tuple[Message, bytes]:
        from agent_runtime import setup_files

        try:
            setup_files.unpack(self._paths, os.path.join(os.path.dirname(self._paths.objects), SETUP_ARCHIVE))
        except setup_files.SetupProblem as problem:
            return {"problem": str(problem)}, b""
        return {}, b""

    def _snapshot(self, request: Message) -> tuple[Message, bytes]:
        recorded = self._snapshots.record(request["parent"], request["limits"])
        reply = recorded._asdict()
        pack: bytes = reply.pop("pack")
        return reply, pack


def _run(tool: str, context: Context, args: dict[str, Any]) -> Output:
    """Whatever a tool meets in the workspace is told to the model."""
    try:
        return TOOLS[tool].run(context, args)
    except ToolError as error:
        return Output(str(error), is_error=True)
    except (BlockingIOError, MemoryError):
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "")
        what = error.strerror or str(error)
        return Output(f"{tool}: {what}{_about(error, args)}. {advice}".strip(), is_error=True)
    except Exception as bug:  # noqa: BLE001  (a bug in one tool must not cost the sandbox)
        return Output(f"{tool} failed inside: {type(bug).__name__}: {bug}", is_error=True)


def _about(error: OSError, args: dict[str, Any]) -> str:
    path = args.get("path") or error.filename
    return f" ({path})" if path and error.strerror else ""
