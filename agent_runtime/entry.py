"""The command line of a sandbox: see USAGE."""

from __future__ import annotations

import os
import sys

from agent_runtime import kernel_filter
from agent_runtime.endings import EXIT_USAGE
from agent_runtime.processes import Users
from agent_runtime.protocol import LINK_SILENCE_S
from agent_runtime.supervisor import Options, Supervisor

USAGE = (
    "usage: python3 -I -S BUNDLE supervise --link DIR --objects DIR --work DIR"
    " [--loop-uid A --helper-uid B] [--link-silence SECONDS]"
)
NAMES = ("--link", "--objects", "--work", "--loop-uid", "--helper-uid", "--link-silence")


def main(argv: list[str]) -> int:
    """Run a sandbox; returns the exit code of the process (see `endings`)."""
    try:
        options = parse(argv)
    except (ValueError, KeyError) as error:
        print(f"{USAGE}\n{error}", file=sys.stderr)
        return EXIT_USAGE
    os.umask(0o022)
    if options.users.helper is not None:  # else it is a local sandbox of an ordinary user, which isolates nothing
        kernel_filter.restrict()
    return Supervisor(options).run()


def parse(argv: list[str]) -> Options:
    """Few options, always given by a worker: argparse alone would take longer to import than all of this."""
    command, names, values = argv[:1], argv[1::2], argv[2::2]
    if command != ["supervise"] or len(names) != len(values) or not set(names) <= set(NAMES):
        raise ValueError(f"cannot read {argv}")
    given = dict(zip(names, values))
    if ("--loop-uid" in given) != ("--helper-uid" in given):
        raise ValueError("--loop-uid and --helper-uid go together")
    uids = [int(given[name]) if name in given else None for name in ("--loop-uid", "--helper-uid")]
    return Options(
        link=os.path.abspath(given["--link"]),
        objects=os.path.abspath(given["--objects"]),
        work=os.path.abspath(given["--work"]),
        users=Users(*uids),
        link_silence_s=float(given.get("--link-silence", LINK_SILENCE_S)),
    )
