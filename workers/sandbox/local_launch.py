"""`python3 -I -S local_launch.py LIMITS COMMAND…`: sets limits on itself, adopts orphans, then becomes the command.

Standard library only. `LIMITS` is a JSON object of names of the `resource` module and numbers. What a command
detaches (a daemon, a double fork) becomes a child of this process instead of init's, so that it can be found.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> None:
    for name, wanted in json.loads(argv[1]).items():
        number = getattr(resource, name)
        _soft, hard = resource.getrlimit(number)
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (bound, bound))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.execv(argv[2], argv[2:])  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv)
