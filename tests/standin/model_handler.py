"""How the model stand-in answers a connection: it reads, records, refuses or plays a turn, faults included."""

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from tests.standin.loopback import ClientLeft, LoopbackHandler
from tests.standin.model_request import ModelRequest
from tests.standin.sse import encode, events, whole_message
from tests.standin.trajectory import Turn
from tests.standin.validation import Refused

if TYPE_CHECKING:
    from tests.standin.model import ModelStandIn

BODY_LIMIT = 32 * 1024 * 1024
_ENDLESS = {"comments": b": still here\n\n", "endless": b"data: " + b"x" * 2**16}
_SPOILS = {"cut", "error_event", "hang_mid", "garbage", *_ENDLESS}
_GARBAGE = b"\x00\xff<html>this is not an event stream</html>\n\n"


class ModelHandler(LoopbackHandler):
    """`POST /v1/messages`; anything else is 404."""

    server: "ModelStandIn"

    def do_GET(self) -> None:  # noqa: N802 - the base class looks for this name
        self._send_error(Refused(404, f"there is nothing at {self.path_only()}"))

    def do_POST(self) -> None:  # noqa: N802
        body = self._read_body()
        if self.path_only() != "/v1/messages":
            self.do_GET()
            return
        request = self.server.log.add(ModelRequest(_parse(body), self.lower_headers()))
        try:
            self._play(request, self._turn_for(request, body))
        except Refused as refused:
            self.server.log.update(request, status=refused.status, error=str(refused))
            self._send_error(refused)
        finally:
            self.server.log.update(request, finished_at=time.monotonic(), held_at=None)

    def _turn_for(self, request: ModelRequest, body: bytes | None) -> Turn:
        if body is None:
            raise Refused(413, f"the request is larger than {BODY_LIMIT} bytes")
        try:
            return self.server.answer(request)
        except Refused:
            raise
        except Exception as bug:  # a test's own function may raise anything, and must be heard
            self.server.errors.append(bug)
            raise Refused(400, f"stand-in: {bug!r}") from bug

    def _read_body(self) -> bytes | None:
        """None if it is too large; it is read to its end even then, so that the client hears the answer."""
        body = bytearray()
        for piece in self.body_pieces():
            if len(body) <= BODY_LIMIT:
                body += piece
        return bytes(body) if len(body) <= BODY_LIMIT else None

    def _play(self, request: ModelRequest, turn: Turn) -> None:
        if turn.gate_after_events == 0:
            self._wait_at_gate(request, turn)
        self.hold(timeout=self.server.delay_s + turn.delay_s)
        match turn.fault:
            case "hang":
                self.hold()
            case "status":
                self.server.log.update(request, status=turn.status, error=turn.message)
                self._send_api_error(turn.status, turn.error_type, turn.message, turn.retry_after)
            case _ if request.body.get("stream"):
                self._stream(request, turn)
            case _:
                self._send_whole(request, turn)

    def _wait_at_gate(self, request: ModelRequest, turn: Turn) -> None:
        if turn.gate is not None:
            self.server.log.update(request, held_at=turn.gate)
            self.hold(self.server.gate(turn.gate))
            self.server.log.update(request, held_at=None)

    def _stream(self, request: ModelRequest, turn: Turn) -> None:
        self.server.log.update(request, status=200)
        self.start_chunked(200, {"Content-Type": "text/event-stream; charset=utf-8"} | _request_id())
        spoilt_after = turn.after_events if turn.fault in _SPOILS else None
        for count, event in enumerate(events(turn, request.body["model"])):
            if count == spoilt_after:
                break
            if count:
                self.hold(timeout=turn.chunk_delay_s)
            if count and count == turn.gate_after_events:
                self._wait_at_gate(request, turn)
            if self.client_left():
                raise ClientLeft("the client left in the middle of a stream")
            self.write_chunk(encode(event))
        if spoilt_after is not None:
            self._spoil(turn)
            return
        self.end_chunks()
        self.server.log.update(request, delivered=True)

    def _spoil(self, turn: Turn) -> None:
        if turn.fault == "hang_mid":
            self.hold()
        if turn.fault in _ENDLESS:
            self._pour(_ENDLESS[turn.fault])
        if turn.fault == "error_event":
            self.write_chunk(encode(("error", _error_body(turn.error_type, turn.message))))
        if turn.fault == "garbage":
            self.write_chunk(_GARBAGE)
        if turn.fault == "cut" and not turn.clean:
            self.cut()
        else:
            self.end_chunks()

    def _pour(self, piece: bytes) -> None:
        while not self.client_left():
            self.write_chunk(piece)
            self.hold(timeout=0.01)
        raise ClientLeft("the client left an answer without an end")

    def _send_whole(self, request: ModelRequest, turn: Turn) -> None:
        """The reply without streaming. A fault of the stream's middle leaves half of it."""
        body = json.dumps(whole_message(turn, request.body["model"])).encode()
        self.server.log.update(request, status=200)
        if turn.fault in _SPOILS:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            if turn.fault == "hang_mid":
                self.hold()
            self.cut()
            return
        self.reply(200, {"Content-Type": "application/json"} | _request_id(), body)
        self.server.log.update(request, delivered=True)

    def _send_error(self, refused: Refused) -> None:
        self._send_api_error(refused.status, refused.error_type, str(refused))

    def _send_api_error(self, status: int, kind: str, message: str, retry_after: float | None = None) -> None:
        request_id = _request_id()
        headers = {"Content-Type": "application/json"} | request_id
        if retry_after is not None:
            headers["Retry-After"] = f"{retry_after:g}"
        body = _error_body(kind, message) | {"type": "error", "request_id": request_id["request-id"]}
        self.reply(status, headers, json.dumps(body).encode())


def _parse(body: bytes | None) -> Any:
    """None where there is no JSON to record; validation then refuses it."""
    try:
        return json.loads(body or b"")
    except ValueError:
        return None


def _error_body(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}


def _request_id() -> dict[str, str]:
    return {"request-id": f"req_{uuid.uuid4().hex[:24]}"}
