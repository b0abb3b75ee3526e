"""The sandbox's end of the link: HTTP/1.1 over a Unix socket, one keep-alive connection, patient with breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NoReturn

from agent_runtime import protocol
from agent_runtime.endings import Cancelled, Failed, FinishRefused, Gone, LinkLost
from agent_runtime.stream import StreamCut, read_response
from agent_runtime.unix_http import BrokenReply, Connection, Reply

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
RECONNECT_PAUSE_S = 0.25
"""To try a socket that nobody listens on costs next to nothing, and whoever adopts us shall be heard at once."""

Headers = dict[str, str]
Read = Callable[[Reply], Any]


class NotNow(Exception):
    """202 or 503: ask again."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the worker answered {status}")
        self.status = status


class Conflict(Exception):
    """409: there is something to do first."""


class Link:
    """One method for each call of the protocol. `unread` is the number of user messages, as of the last reply.

    A broken or refused connection and a 503 are tried again, so a restarted worker finds us. Raises `Failed`
    with the worker's own words, `Cancelled`, `Gone`, and `LinkLost` after `silence_s` without any reply.
    """

    def __init__(self, path: str, silence_s: float = protocol.LINK_SILENCE_S) -> None:
        self.unread = 0
        self._silence_s = silence_s
        self._broken_since: float | None = None
        self._connection = Connection(path)

    def job(self) -> protocol.Job:
        job: protocol.Job = self._exchange("GET", "/job")
        return job

    def inbox(self) -> list[protocol.InboxMessage]:
        messages: list[protocol.InboxMessage] = self._exchange("GET", "/inbox")["messages"]
        return messages

    def message(self, step: int, body: dict[str, Any], inbox_ids: list[str], deadline: float) -> dict[str, Any]:
        """Ask the model and return its whole response. `deadline` is on the monotonic clock."""
        headers = {protocol.HEADER_STEP: str(step)}
        if inbox_ids:
            headers[protocol.HEADER_INBOX] = ",".join(inbox_ids)
        response: dict[str, Any] = self._exchange(
            "POST", "/v1/messages", _json(body), headers=headers, read=read_response, deadline=deadline
        )
        return response

    def calls(self, calls: protocol.Calls) -> None:
        self._exchange("POST", "/calls", _json(calls))

    def result(self, result: protocol.Result, pack: bytes) -> None:
        self._exchange("POST", "/results", _json(result) + b"\n" + pack)

    def finish(self, finish: protocol.Finish) -> bool:
        """True: accepted. False: something came in meanwhile, the run goes on."""
        try:
            self._exchange("POST", "/finish", _json(finish))
        except Conflict:
            return False
        except Failed as failed:
            raise FinishRefused(f"the worker refused how the run ended: {failed}") from failed
        return True

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Headers | None = None,
        read: Read | None = None,
        deadline: float | None = None,
    ) -> Any:
        pause = FIRST_PAUSE_S
        while True:
            self._set_timeout(deadline)
            longest = LONGEST_PAUSE_S
            try:
                return self._once(method, path, body, headers or {}, read or _read_json)
            except NotNow as answer:
                pause = 0 if answer.status == 202 else pause
            except (OSError, BrokenReply, StreamCut) as problem:
                self._connection.close()
                self._note_break(problem)
                longest = RECONNECT_PAUSE_S
            if deadline is not None and time.monotonic() + pause > deadline:
                raise time_is_up()
            time.sleep(min(pause, longest))
            pause = min(max(pause, FIRST_PAUSE_S / 2) * 2, LONGEST_PAUSE_S)

    def _once(self, method: str, path: str, body: bytes, headers: Headers, read: Read) -> Any:
        headers = {"Content-Type": "application/json", **headers}
        reply = self._connection.exchange(method, path, headers, body)
        self._broken_since = None
        self.unread = int(reply.header(protocol.HEADER_UNREAD) or 0)
        if reply.header(protocol.HEADER_CANCEL) == "1":
            raise Cancelled("the task was cancelled")
        if reply.status == 200:
            return read(reply)
        return _refuse(reply.status, reply.read())

    def _set_timeout(self, deadline: float | None) -> None:
        """A model may think for long; everything else is answered soon."""
        wait = self._silence_s if deadline is None else max(deadline - time.monotonic(), 0.1)
        self._connection.set_timeout(wait)

    def _note_break(self, problem: Exception) -> None:
        now = time.monotonic()
        self._broken_since = self._broken_since or now
        if now - self._broken_since > self._silence_s:
            raise LinkLost(f"no reply from the worker for {self._silence_s:.0f} s: {problem!r}")


def time_is_up() -> Failed:
    return Failed(
        "time_limit_reached",
        "The task reached its limit of time.",
        "The work so far is kept. Send a follow-up message to go on from here.",
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _read_json(reply: Reply) -> Any:
    """A body that is cut or garbled counts as a broken link."""
    try:
        return json.loads(reply.read())
    except ValueError as error:
        raise StreamCut(f"the reply is not JSON: {error}") from error


def _refuse(status: int, body: bytes) -> NoReturn:
    """Raise what a reply other than 200 means for the run."""
    if status in (202, 503):
        raise NotNow(status)
    if status == 409:
        raise Conflict
    if status == 410:
        raise Gone("this attempt no longer owns the task")
    try:
        error = json.loads(body)["error"]
        failed = Failed(str(error["code"]), str(error["message"]), str(error["hint"]))
    except (ValueError, KeyError, TypeError):
        failed = Failed(
            "link_error",
            f"The worker answered {status} with no reason: {body[:200].decode(errors='replace')}",
            "See the worker's log; retry the task when that is resolved.",
        )
    raise failed
