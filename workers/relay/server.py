"""HTTP over the link's Unix socket: routes, bodies and statuses of `agent_runtime.protocol`, nothing else.

A server may run before there is an attempt to serve: until `serve` is called a sandbox can ask for its job, and
nothing else.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from gevent import GreenletExit, socket
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from agent_runtime.protocol import (
    HEADER_CANCEL,
    HEADER_INBOX,
    HEADER_OFFSET,
    HEADER_STEP,
    HEADER_UNREAD,
    SOCKET,
    Failure,
)
from infra.errors import (
    AuthorityLostError,
    BudgetExceededError,
    FarhandError,
    InvalidInputError,
    TaskFailedError,
    UnavailableError,
)
from workers.relay import words
from workers.relay.assemble import StreamEvent
from workers.relay.link import Flags, Link

log = logging.getLogger(__name__)

JOB_WAIT_S = 20.0
MAX_BODY_BYTES = 96 * 2**20
"""A conversation, or a result with its pack; bounds what one request of a sandbox can make us hold."""

MAX_CONNECTIONS = 8
"""The runtime has one, and one more for a moment after it broke."""

SMALL_BODY_BYTES = 2**20
"""Larger bodies are taken one at a time: a sandbox has one of them in our memory, however many it sends."""

Handler = Callable[[Link, Request], Response]


class LinkServer:
    """Listens on `<directory>/host.sock` for one sandbox, as long as that is there."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / SOCKET
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._application = Application()
        # A pool, so that `stop` ends the handlers too: without one they would go on for who is still connected.
        self._server = WSGIServer(
            self._listener,
            self._application,
            spawn=Pool(MAX_CONNECTIONS),
            handler_class=_Connection,
            log=None,
            error_log=log,
        )

    def serve(self, link: Link) -> None:
        """From now on the sandbox belongs to this attempt: `GET /job` answers with its job. Called once."""
        self._application.serve(link)

    @property
    def asked(self) -> bool:
        """Whether the sandbox has asked for its job."""
        return self._application.asked

    def on_asked(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sandbox asks for its job, at once if it has."""
        self._application.on_asked = tell
        if self.asked:
            tell()

    def start(self) -> None:
        """Bind and serve. The directory's mode keeps all but the loop out, so the socket itself is open to it."""
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o666)
        self._listener.listen(16)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(timeout=0)
        self._path.unlink(missing_ok=True)


class _Connection(WSGIHandler):  # type: ignore[misc]
    """What `stop` ends in the middle of a request is cut off without an answer, so the loop asks whoever serves it
    then. Answered with 500, as is the server's way, it would take its task for failed."""

    def handle_error(self, kind: Any, error: Any, trace: Any) -> None:
        if issubclass(kind, GreenletExit):
            self.close_connection = True
        else:
            super().handle_error(kind, error, trace)


class Application:
    """The WSGI application of one sandbox, and of the link that it gets."""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._served = threading.Event()
        self._large_body = BoundedSemaphore(1)
        self.asked = False
        self.on_asked: Callable[[], None] = lambda: None

    def serve(self, link: Link) -> None:
        self._link = link
        self._served.set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = MAX_BODY_BYTES
        small = request.content_length is not None and request.content_length <= SMALL_BODY_BYTES
        if small or request.method == "GET":
            return self._respond(request)(environ, start_response)
        with self._large_body:
            return self._respond(request)(environ, start_response)

    def _respond(self, request: Request) -> Response:
        asks_for_job = (request.method, request.path) == ("GET", "/job")
        link = self._link or self._wait_for_link(asks_for_job=asks_for_job)
        if link is None:
            return _flagged(_json({}, 202 if asks_for_job else 503), _WAITING)
        link.heard = link.heard or not asks_for_job
        try:
            if link.suspended():
                raise UnavailableError("the worker has lost touch with its database")
            handler = _ROUTES.get((request.method, request.path))
            if handler is None:
                raise InvalidInputError(f"no such call: {request.method} {request.path}")
            response = handler(link, request)
            return _flagged(response, link.flags)
        except FarhandError as error:
            return _refusal(link, error)
        except RequestEntityTooLarge:
            return _refusal(link, InvalidInputError(f"more than {MAX_BODY_BYTES} bytes"))
        except HTTPException as error:
            return _refusal(link, InvalidInputError(str(error)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            return _refusal(link, InvalidInputError(f"malformed: {error!r}"))

    def _wait_for_link(self, *, asks_for_job: bool) -> Link | None:
        """Whoever asks for a job waits for it; there is nothing else to say before there is one."""
        if asks_for_job:
            self.asked = True
            self.on_asked()
            self._served.wait(JOB_WAIT_S)
        return self._link


def _get_job(link: Link, _request: Request) -> Response:
    return _json(dict(link.job()))


def _get_inbox(link: Link, _request: Request) -> Response:
    return _json({"messages": link.inbox()})


def _post_messages(link: Link, request: Request) -> Response:
    step = int(request.headers[HEADER_STEP])
    inbox = tuple(UUID(name) for name in request.headers.get(HEADER_INBOX, "").split(",") if name)
    events = link.messages(step, request.get_data(), inbox)
    # A refusal shows itself before the first event; later ones can only cut the stream.
    first = next(events)
    return Response(_as_sse(itertools.chain([first], events)), 200, content_type="text/event-stream")


def _post_calls(link: Link, request: Request) -> Response:
    link.calls(words.read(request.get_data()))
    return _json({})


def _post_results(link: Link, request: Request) -> Response:
    head, _, pack = request.get_data().partition(b"\n")
    link.results(words.read(head), pack)
    return _json({})


def _post_setup_part(link: Link, request: Request) -> Response:
    link.setup_part(int(request.headers[HEADER_OFFSET]), request.get_data())
    return _json({})


def _post_setup_done(link: Link, request: Request) -> Response:
    link.setup_done(words.read(request.get_data()))
    return _json({})


def _post_finish(link: Link, request: Request) -> Response:
    if link.finish(words.read(request.get_data())):
        return _json({})
    return _json({"error": _UNREAD}, 409)


_ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/job"): _get_job,
    ("GET", "/inbox"): _get_inbox,
    ("POST", "/v1/messages"): _post_messages,
    ("POST", "/calls"): _post_calls,
    ("POST", "/results"): _post_results,
    ("POST", "/setup/part"): _post_setup_part,
    ("POST", "/setup/done"): _post_setup_done,
    ("POST", "/finish"): _post_finish,
}

_WAITING = Flags(cancel=False, unread=0)

_UNREAD: Failure = {
    "code": "unread_message",
    "message": "the user has sent a message that no step contains",
    "hint": "Read the inbox and go on.",
}

_STATUS: tuple[tuple[type[FarhandError], int], ...] = (
    (AuthorityLostError, 410),
    (BudgetExceededError, 402),
    (UnavailableError, 503),
    (InvalidInputError, 400),
)


def _status(error: FarhandError) -> int:
    if error.code == "model_unavailable":
        return 504
    matching = (status for kind, status in _STATUS if isinstance(error, kind))
    return next(matching, 422 if isinstance(error, TaskFailedError) else 500)


def _refusal(link: Link, error: FarhandError) -> Response:
    if isinstance(error, AuthorityLostError):
        link.lost()
    return _flagged(_json({"error": error.as_failure()}, _status(error)), link.flags)


def _flagged(response: Response, flags: Flags) -> Response:
    response.headers[HEADER_CANCEL] = "1" if flags.cancel else "0"
    response.headers[HEADER_UNREAD] = str(flags.unread)
    if response.is_json and not response.is_streamed:
        body = json.loads(response.get_data()) | {"cancel": flags.cancel, "unread": flags.unread}
        response.set_data(json.dumps(body))
    return response


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def _as_sse(bursts: Iterator[list[StreamEvent]]) -> Iterator[bytes]:
    try:
        for burst in bursts:
            yield "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in burst).encode()
    except FarhandError as error:
        # The head is sent: a cut stream tells the loop to ask again, and the repeat gets the refusal itself.
        log.warning("a model stream was cut: %s", error, extra={"action": "model_stream_cut"})
