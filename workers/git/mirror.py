"""One bare mirror per project and host: the only place where a worker keeps what it fetched.

RUN_DIR/m/<project>.git          the mirror; its objects are packs only
RUN_DIR/m/<project>.git/farhand  what the last refresh found (JSON), written when all of it is in place
RUN_DIR/m/<project>.new          a clone under way; swapped in when complete
RUN_DIR/m/<project>.fetch.lock   held while one worker fetches
RUN_DIR/m/<project>.packs.lock   shared while packs are linked, exclusive while any are removed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from infra.settings import Settings
from workers.git.advertised import HEADS, Advertised
from workers.git.command import Git
from workers.git.errors import GitError
from workers.git.locks import held
from workers.git.objects import share_packs
from workers.git.refresh import Progress, Refresh
from workers.git.remote import Credentials, Remote


class Mirror:
    """A mirror as one refresh left it: what it resolves is fixed, whatever is fetched into it later."""

    def __init__(self, git: Git, path: Path, url: str, advertised: Advertised) -> None:
        self.git = git
        self.path = path
        self.url = url
        self._advertised = advertised

    def default_branch(self) -> str:
        """Raises GitError (`branch_not_found`) when the remote's HEAD names no branch."""
        if self._advertised.default is None:
            raise GitError(
                f"the default branch of {self.url} does not exist",
                hint="Name a base_branch, or correct the default branch at the repository's host.",
                code="branch_not_found",
            )
        return self._advertised.default

    def resolve(self, branch: str | None) -> tuple[str, str]:
        """A branch (None: the default one) and its commit. Raises GitError (`branch_not_found`)."""
        name = self.default_branch() if branch is None else branch.removeprefix(HEADS)
        sha = self._advertised.heads.get(name)
        if sha is None:
            known = ", ".join([head for head in sorted(self._advertised.heads) if not head.startswith("farhand/")][:10])
            raise GitError(
                f"there is no branch {name!r} at {self.url}",
                hint=f"Branches there are: {known}. Leave base_branch out for the default branch.",
                code="branch_not_found",
            )
        return name, sha

    def share_objects(self, target: Path) -> None:
        """Make every object of the mirror readable in `target/objects`, an object store of packs, by hard links.

        It depends on nothing afterwards: the mirror may be fetched into, repacked or removed.

        Raises:
            GitError: `mirror_gone`, when a refresh for another task found the repository too large meanwhile.
        """
        with held(self.path.with_suffix(".packs.lock"), timeout=self.git.settings.git_timeout, shared=True):
            shared = share_packs(self.path / "objects", target / "objects")
        if not shared:
            raise GitError(
                f"the mirror of {self.url} was removed while a task was using it",
                hint="Retry the task: the repository is fetched anew.",
                code="mirror_gone",
            )


class MirrorStore:
    """All mirrors of a host. Workers of the host share it through the file system."""

    def __init__(self, run_dir: Path, settings: Settings) -> None:
        self._settings = settings
        self._git = Git(settings)
        self._root = run_dir / "m"
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o700)  # other users of the host, sandboxes of the local kind among them, read no mirror

    def refresh(
        self,
        project_id: UUID,
        url: str,
        credentials: Credentials | None,
        *,
        progress: Progress | None = None,
        commits: Sequence[str] = (),
    ) -> Mirror:
        """Bring a project's mirror up to date: one ls-remote, and a fetch only when that shows something new.

        `progress(stage, percent)` is called as git reports it. `commits` are ids that the task builds on: fetched by
        id when no branch has them any more.

        Raises:
            GitError: whatever is wrong with the URL, the host, the credentials or the repository, by its code.
        """
        remote = Remote.at(url, credentials, self._settings)
        path = self._root / f"{project_id}.git"
        tell = progress or (lambda _stage, _percent: None)
        refreshing = Refresh(self._git, remote, path, tell)
        with held(
            path.with_suffix(".fetch.lock"),
            timeout=self._settings.git_timeout,
            on_wait=lambda: tell("waiting for another task of the same project", 0),
        ):
            return Mirror(self._git, path, remote.url, refreshing.run(commits))
