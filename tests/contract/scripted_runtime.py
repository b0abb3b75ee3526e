"""A runtime that does what a test says: the driver's side of a sandbox, without the loop. Standard library only.

As the real one it has a first process, a loop user who opens the link and a helper user who runs commands. Each
request is one JSON line over the link, and so is its answer. The fixture `scripted` makes a bundle of it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any


class Runtime:
    """The first process. A request `{"do": name, …}` calls the method of that name."""

    def __init__(self, options: dict[str, str]) -> None:
        loop, helper = (int(options[name]) if name in options else None for name in ("--loop-uid", "--helper-uid"))
        self._users = {"first": None, "loop": loop, "helper": helper}
        self._work = options["--work"]
        self._link = options["--link"] + "/host.sock"

    def serve(self) -> int:
        with self._connect() as link, link.makefile("rw") as lines:
            for line in lines:
                request = json.loads(line)
                answer = getattr(self, request.pop("do"))(**request)
                lines.write(json.dumps(answer) + "\n")
                lines.flush()
        return 5

    def _connect(self) -> socket.socket:
        """Only the loop's user may open the link: it connects, and hands the connection over."""
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            uid = self._users["loop"]
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            link = socket.socket(socket.AF_UNIX)
            link.connect(self._link)
            socket.send_fds(theirs, [b"link"], [link.fileno()])
            signal.pause()
        _, descriptors, _, _ = socket.recv_fds(ours, 4, 1)
        ours.close()
        theirs.close()
        return socket.socket(fileno=descriptors[0])

    def run(self, command: str, user: str, timeout: float) -> dict[str, Any]:
        uid = self._users[user]
        identity: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        # Only its owner can enter the work directory: not even a first process that has lost DAC_OVERRIDE.
        script = f"cd {self._work} && {command}" if user == "helper" else command
        shell = subprocess.Popen(
            ["/bin/sh", "-c", script],
            env={**os.environ, "FARHAND_SANDBOX": self._work},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity,
        )
        try:
            output = shell.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            output = b"timeout"
        return {"code": shell.wait(), "output": output[-20_000:].decode(errors="replace")}

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def eat(self) -> None:
        """The first process itself takes all memory."""
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 24))

    def leave(self, code: int, words: str) -> None:
        sys.stderr.write(words)
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    # python3 -I -S BUNDLE supervise --name value …
    sys.exit(Runtime(dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))).serve())
