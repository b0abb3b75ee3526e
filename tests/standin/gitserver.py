"""A git host over smart HTTP on loopback: the real `git http-backend`, with passwords, protected branches and faults.

with GitServer(tmp_path, auth=("user", "secret")) as host:
    host.create("project", from_dir=work_tree)
    subprocess.run(["git", "clone", host.url("project")], …)
"""

import base64
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import click

from tests.standin.git_command import run_git
from tests.standin.git_handler import GitHandler, GitRequest
from tests.standin.loopback import LoopbackServer, wait_for_interrupt
from tests.standin.request_log import RequestLog

Credentials = tuple[str, str]


@dataclass
class HeldPush:
    """A push that waits at the host: before it is carried out, or `afterwards`, when nobody has heard of it yet."""

    afterwards: bool
    dropped: bool = False
    """It ends in a broken connection once it is released."""
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


# The hook reads its patterns from a file, so that no pattern is ever quoted into a shell script.
_UPDATE_HOOK = """#!/bin/sh
while read -r pattern; do
    case "$1" in
        $pattern)
            echo "error: $1 is a protected branch: changes must be made through a pull request" >&2
            exit 1 ;;
    esac
done < protected-refs
"""


class GitServer(LoopbackServer):
    """Serves the bare repositories `root/<name>.git`. Started by `with` or `start`/`stop`.

    `auth` is asked of every request, for every repository that has no credentials of its own; None asks nothing.
    """

    def __init__(self, root: Path, *, auth: Credentials | None = None, port: int = 0) -> None:
        self.root = root.resolve()
        self.log: RequestLog[GitRequest] = RequestLog()
        self.push_status: int | None = None
        self.answers_to_drop = 0
        self.hanging = False
        self.resumed = threading.Event()
        self.held_pushes: dict[str, HeldPush] = {}
        self._auth = auth
        self._auth_of: dict[str, Credentials | None] = {}
        super().__init__(GitHandler, port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def requests(self) -> list[GitRequest]:
        return self.log.snapshot()

    def wait_until(self, reached: Callable[[list[GitRequest]], bool], timeout: float = 10.0) -> list[GitRequest]:
        """The requests once `reached(requests)`; asked again on every arrival and every change. Raises TimeoutError."""
        return self.log.wait_until(reached, timeout)

    def url(self, name: str) -> str:
        """Without credentials."""
        return f"{self.base_url}/{name}.git"

    def path(self, name: str) -> Path:
        return self.root / f"{name}.git"

    def create(self, name: str, from_dir: Path | None = None, default_branch: str = "main") -> Path:
        """A new bare repository that can be pushed to; returns its path.

        `from_dir` is a git work tree, whose HEAD becomes the default branch with its history, or a plain
        directory, whose files become one commit. Without it the repository is empty.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        run_git("init", "--quiet", "--bare", f"--initial-branch={default_branch}", str(path))
        for setting, value in (("http.receivepack", "true"), ("uploadpack.allowFilter", "true")):
            self.git(name, "config", setting, value)
        if from_dir is not None and (from_dir / ".git").exists():
            self.git(name, "fetch", "--quiet", str(from_dir.resolve()), f"HEAD:refs/heads/{default_branch}")
        elif from_dir is not None:
            in_tree = ("-c", "core.bare=false", f"--work-tree={from_dir.resolve()}")
            self.git(name, *in_tree, "add", "--all")
            self.git(name, *in_tree, "commit", "--quiet", "--message=First commit")
        return path

    def git(self, name: str, *arguments: str) -> str:
        """Run git in the bare repository; returns what it prints. Raises RuntimeError with git's message."""
        return run_git(f"--git-dir={self.path(name)}", *arguments)

    def refs(self, name: str) -> dict[str, str]:
        """Full ref names to object ids."""
        lines = self.git(name, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def set_auth(self, name: str, auth: Credentials | None) -> None:
        """Credentials of this repository alone; None makes it public."""
        self._auth_of[name] = auth

    def protect(self, name: str, ref_pattern: str) -> None:
        """Reject every push to refs that match, by a hook of the repository. A shell pattern: `refs/heads/main`."""
        path = self.path(name)
        with (path / "protected-refs").open("a") as patterns:
            patterns.write(f"{ref_pattern}\n")
        hook = path / "hooks" / "update"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(_UPDATE_HOOK)
        hook.chmod(0o755)

    def fail_pushes(self, status: int | None) -> None:
        """Answer everything that belongs to a push with this status (503, 401, 403 …); None ends it."""
        self.push_status = status

    def drop_push_answers(self, times: int = 1) -> None:
        """Let the next pushes through, and break the connection where the client waits to hear of it."""
        self.answers_to_drop = times

    def hold_push(self, name: str, *, afterwards: bool) -> HeldPush:
        """Hold the pushes to a repository from now on, until `end_push` is told what becomes of them."""
        return self.held_pushes.setdefault(name, HeldPush(afterwards))

    def end_push(self, name: str, *, dropped: bool) -> None:
        """Whoever waits goes on, or is cut off; who comes later is not held."""
        held = self.held_pushes.pop(name)
        held.dropped = dropped
        held.released.set()

    def hang(self) -> None:
        """Accept requests and answer nothing, until `resume` or until the client leaves."""
        self.resumed.clear()
        self.hanging = True

    def resume(self) -> None:
        self.hanging = False
        self.resumed.set()

    def admits(self, name: str, authorization: str | None) -> bool:
        """Whether this `Authorization` header opens the repository `name`."""
        credentials = self._auth_of.get(name, self._auth)
        if credentials is None:
            return True
        expected = base64.b64encode(":".join(credentials).encode()).decode()
        return authorization == f"Basic {expected}"


@click.command()
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), required=True, help="Holds NAME.git.")
@click.option("--create", "names", multiple=True, metavar="NAME[=DIR]", help="A new repository, of DIR's content.")
@click.option("--auth", metavar="USER:SECRET", help="Ask for this password. Nothing is asked unless given.")
@click.option("--port", default=0, help="0 takes a free one.")
def main(root: Path, names: tuple[str, ...], auth: str | None, port: int) -> None:
    """Serve git repositories over HTTP on 127.0.0.1 until interrupted."""
    if shutil.which("git") is None:
        raise click.ClickException("git is not installed")
    user, _, secret = (auth or "").partition(":")
    with GitServer(root, auth=(user, secret) if auth else None, port=port) as host:
        for name, _, directory in (item.partition("=") for item in names):
            host.create(name, from_dir=Path(directory) if directory else None)
            click.echo(host.url(name))
        click.echo(f"ready {host.base_url}")
        wait_for_interrupt()


if __name__ == "__main__":
    main()
