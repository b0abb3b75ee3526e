"""How the git host answers a connection: passwords and faults first, then `git http-backend` as a CGI program.

Bodies stream both ways, so that a large pack is never whole in memory.
"""

import io
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote

from tests.standin.git_command import isolated_git_environment
from tests.standin.loopback import BODY_PIECE, ClientLeft, LoopbackHandler

if TYPE_CHECKING:
    from tests.standin.gitserver import GitServer, HeldPush


@dataclass
class GitRequest:
    """One request, and what became of it. Times are `time.monotonic()` seconds."""

    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)
    arrived_at: float = field(default_factory=time.monotonic)
    status: int | None = None  # the HTTP status of the answer, once there is one
    body_bytes: int = 0  # as sent, so before gunzip
    finished_at: float | None = None

    @property
    def is_push(self) -> bool:
        return self.path.endswith("/git-receive-pack") or "service=git-receive-pack" in self.query

    @property
    def repository(self) -> str:
        return self.path.strip("/").partition(".git")[0]


class GitHandler(LoopbackHandler):
    """Any path and method: what exists is the business of git itself."""

    server: "GitServer"

    def do_GET(self) -> None:  # noqa: N802 - the base class looks for these names
        path, _, query = self.path.partition("?")
        request = self.server.log.add(GitRequest(self.command, path, query, self.lower_headers()))
        try:
            if self.server.hanging:
                self.hold(self.server.resumed)
            refusal = self._refusal(request)
            if refusal is None:
                self._hold(self._held_push(request, afterwards=False))
                self._serve(request)
            else:
                self._refuse(request, refusal)
        finally:
            self.server.log.update(request, finished_at=time.monotonic())

    do_POST = do_GET  # noqa: N815

    def _held_push(self, request: GitRequest, *, afterwards: bool) -> "HeldPush | None":
        held = self.server.held_pushes.get(request.repository)
        applies = held is not None and held.afterwards is afterwards and request.method == "POST" and request.is_push
        return held if applies else None

    def _hold(self, held: "HeldPush | None") -> None:
        if held is None:
            return
        held.reached.set()
        self.hold(held.released)
        if held.dropped:
            self.cut()
            raise ClientLeft("told to drop a push")

    def _refusal(self, request: GitRequest) -> int | None:
        if not self.server.admits(request.repository, request.headers.get("authorization")):
            return 401
        return self.server.push_status if request.is_push else None

    def _refuse(self, request: GitRequest, status: int) -> None:
        # Read to the end: a client that is still sending would see a reset connection and not the answer.
        for piece in self.body_pieces():
            request.body_bytes += len(piece)
        headers = {"Content-Type": "text/plain"}
        if status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="git stand-in"'
        self.server.log.update(request, status=status)
        self.reply(status, headers, f"refused by the stand-in with {status}\n".encode())

    def _serve(self, request: GitRequest) -> None:
        backend = subprocess.Popen(
            ["git", "http-backend"],
            env=self._cgi_environment(request),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with backend:
            assert backend.stdin is not None
            assert backend.stdout is not None
            # http-backend may answer before it has read everything: both directions must move at once.
            feeder = threading.Thread(target=self._feed, args=(request, backend.stdin))
            feeder.start()
            try:
                self._relay_answer(request, backend.stdout)
            except ConnectionError:
                backend.kill()
                self.cut()
                raise
            finally:
                feeder.join()

    def _feed(self, request: GitRequest, sink: IO[bytes]) -> None:
        try:
            with sink:
                for piece in self.body_pieces():
                    request.body_bytes += len(piece)
                    sink.write(piece)
        except (OSError, ValueError):
            # The client left, or the backend has heard enough. What is unread would be taken for the next request.
            self.close_connection = True

    def _relay_answer(self, request: GitRequest, source: IO[bytes]) -> None:
        headers = dict(_read_cgi_headers(source))
        status = int(headers.pop("Status", "200").partition(" ")[0])
        if request.method == "POST" and request.is_push and self._drops_answer():
            while source.read(BODY_PIECE):
                pass
            # Headers go out first: a client that has heard nothing at all sends its request once more by itself.
            self.start_chunked(status, headers)
            raise ConnectionAbortedError("told to drop the answer")
        if held := self._held_push(request, afterwards=True):
            source = io.BytesIO(source.read())  # to its end: by then the push is carried out
            self._hold(held)
        self.server.log.update(request, status=status)
        self.start_chunked(status, headers)
        while piece := source.read1(BODY_PIECE):  # type: ignore[attr-defined]
            self.write_chunk(piece)
        self.end_chunks()

    def _drops_answer(self) -> bool:
        if self.server.answers_to_drop == 0:
            return False
        self.server.answers_to_drop -= 1
        return True

    def _cgi_environment(self, request: GitRequest) -> dict[str, str]:
        """RFC 3875, and what git reads beyond it."""
        given = {
            "CONTENT_TYPE": request.headers.get("content-type"),
            "CONTENT_LENGTH": request.headers.get("content-length"),  # without it git reads to the end
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding"),
            "GIT_PROTOCOL": request.headers.get("git-protocol"),
        }
        return (
            isolated_git_environment()
            | {name: value for name, value in given.items() if value is not None}
            | {
                "GATEWAY_INTERFACE": "CGI/1.1",
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": request.method,
                "PATH_INFO": unquote(request.path),
                "QUERY_STRING": request.query,
                "REMOTE_ADDR": "127.0.0.1",
                "REMOTE_USER": "farhand-test",
            }
        )


def _read_cgi_headers(source: IO[bytes]) -> Iterator[tuple[str, str]]:
    while line := source.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        yield name.strip(), value.strip()
