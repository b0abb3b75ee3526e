"""run_command: a shell command in a session of its own, bounded in time and output."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from agent_runtime.protocol import Limits
from agent_runtime.sandbox_paths import Paths
from agent_runtime.tools.process import Finished, run_bounded
from agent_runtime.tools.specification import Args, Context, Output, Tool

SHELLS = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh")
SCRIPT_OUTPUT_BYTES = 48 * 1024


def command_timeout_s(limits: Limits, args: Args) -> float:
    """What the call asks for or the default, but never more than the limit."""
    asked: float = args.get("timeout_s", limits["command_timeout_s"])
    return min(asked, limits["max_command_timeout_s"])


def proxy_environment(proxy: str) -> dict[str, str]:
    """How programs are told of a proxy: curl reads http_proxy in lower case only, others the upper case only.

    ALL_PROXY is left out: whatever reads it reads these, and protocols other than HTTP end here anyway. What runs
    inside is reached without the proxy.
    """
    if not proxy:
        return {}
    inside = "localhost,127.0.0.1,::1"
    names = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": inside}
    return {**names, **{name.lower(): value for name, value in names.items()}}


class Script(NamedTuple):
    """How a script ended: `failure` is empty when it went well."""

    failure: str
    output: str


def run_script(paths: Paths, script: str, environment: dict[str, str], timeout_s: float) -> Script:
    """Run a script of the project in the workspace, as commands are; the first command of it that fails ends it."""
    shell = next(path for path in SHELLS if os.access(path, os.X_OK))
    given = {**paths.environment(), **environment}
    finished = run_bounded([shell, "-e", "-c", script], paths.repo, given, timeout_s, SCRIPT_OUTPUT_BYTES)
    well = finished.timed_out_after_s is None and finished.code == 0
    return Script("" if well else _ending(finished).strip("[]"), finished.output.text())


def run_command(context: Context, args: Args) -> Output:
    shell = next(path for path in SHELLS if os.access(path, os.X_OK))
    os.makedirs(context.paths.repo, exist_ok=True)
    finished = run_bounded(
        [shell, "-c", args["command"]],
        context.paths.repo,
        {**context.paths.environment(), **context.environment, **proxy_environment(context.proxy)},
        min(command_timeout_s(context.limits, args), context.time_left_s),
        context.limits["output_bytes"],
    )
    text = finished.output.text()
    if text and not text.endswith("\n"):
        text += "\n"
    failed = finished.timed_out_after_s is not None or finished.code < 0
    return Output(text + _ending(finished), failed, bool(finished.output.cut))


def _ending(finished: Finished) -> str:
    """An exit code other than 0 is a result as good as any; a command that was killed is an error."""
    if finished.timed_out_after_s is not None:
        return f"[timeout: the command and its process group were killed after {finished.timed_out_after_s:g} s]"
    if finished.code < 0:
        return f"[killed by signal {-finished.code} ({signal.strsignal(-finished.code)})]"
    return f"[exit code {finished.code}]"


RUN_COMMAND = Tool(
    name="run_command",
    description=(
        "Run a shell command (bash where there is one) in the workspace directory. Standard input is empty; "
        "standard output and error come back together, the middle cut out when it is long, and then the exit "
        "code. Every call is a new shell: a `cd` or an exported variable does not last. At the timeout the "
        "command and its process group are killed. To keep a server running, start it with `&` and redirect its "
        "output to a file."
    ),
    properties={
        "command": {"type": "string", "description": "The command line."},
        "timeout_s": {
            "type": "number",
            "minimum": 0.1,
            "description": "Seconds until it is killed. The default suits most commands; raise it for long builds.",
        },
    },
    required=("command",),
    run=run_command,
    changes_files=True,
)
