"""A model that many tasks wait for: it answers each call after the same time, and costs the machine next to nothing.

The model stand-in of the tests looks at every call that it holds fifty times a second, in a thread for each: with 500
calls in the air the load would be its own. This one sleeps in greenlets, in a process of its own. It plays one
trajectory: `steps` calls of `run_command true`, then the end. How far a task is it tells by the answers in the request.

    with SlowModel(steps=20, delay_s=10.0) as model: …           # or: python -m tests.bench.slow_model 20 10.0
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
_POLL_S = 0.5
_USAGE = {"input_tokens": 100, "output_tokens": 10}


class SlowModel:
    """The process. `served` is how many calls it has taken so far."""

    def __init__(self, steps: int, delay_s: float) -> None:
        self._command = [sys.executable, "-P", "-m", "tests.bench.slow_model", str(steps), str(delay_s)]
        self.base_url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()
        assert self.base_url, "the slow model did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def served(self) -> int:
        with urllib.request.urlopen(f"{self.base_url}/served", timeout=60) as reply:
            return int(reply.read())

    def wait_until_served(self, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.served < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.served} of {count} model calls came within {timeout:.0f} s")
            time.sleep(_POLL_S)


class Application:
    """WSGI: `POST /v1/messages` streams the next turn, `GET /served` counts."""

    def __init__(self, steps: int, delay_s: float, sleep: Callable[[float], None]) -> None:
        self._steps = steps
        self._delay_s = delay_s
        self._sleep = sleep
        self._served = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            body = str(self._served).encode()
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
            return [body]
        request = json.loads(environ["wsgi.input"].read())
        self._served += 1
        answered = sum(message["role"] == "assistant" for message in request["messages"])
        self._sleep(self._delay_s)
        start_response("200 OK", [("Content-Type", "text/event-stream; charset=utf-8")])
        return [b"".join(_turn(answered, self._steps))]


def _turn(answered: int, steps: int) -> Iterator[bytes]:
    message = {"id": f"msg_{answered}", "type": "message", "role": "assistant", "model": "claude-slow", "content": []}
    call = {"type": "tool_use", "id": f"toolu_{answered}", "name": "run_command", "input": {}}
    block, delta, reason = (
        (call, {"type": "input_json_delta", "partial_json": '{"command": "true"}'}, "tool_use")
        if answered < steps
        else ({"type": "text", "text": ""}, {"type": "text_delta", "text": "Done."}, "end_turn")
    )
    stop = {"stop_reason": reason, "stop_sequence": None}
    yield _event("message_start", message={**message, "stop_reason": None, "usage": _USAGE})
    yield _event("content_block_start", index=0, content_block=block)
    yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    yield _event("message_delta", delta=stop, usage=_USAGE)
    yield _event("message_stop")


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def main(steps: int, delay_s: float) -> None:
    """Serve on loopback until killed; the first line of output is the address."""
    from gevent import sleep, socket
    from gevent.pywsgi import WSGIServer

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    server = WSGIServer(listener, Application(steps, delay_s, sleep), log=None)
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
