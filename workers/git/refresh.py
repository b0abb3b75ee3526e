"""One refresh of one mirror: ask what the remote has, fetch what is new, clone anew what is broken."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from workers.git import advertised
from workers.git.advertised import HEADS, Advertised
from workers.git.command import Git
from workers.git.errors import CommandFailed, GitError, fetch_error, local_error
from workers.git.locks import held
from workers.git.objects import has_loose, pack_sizes, sweep_leftovers, total_bytes
from workers.git.remote import Remote

Progress = Callable[[str, int], None]
"""Called with a stage in words and its percentage."""

_log = logging.getLogger(__name__)
_MAX_PACKS = 20
_MAX_BRANCHES_BYTES = 16 * 2**20  # a quarter of a million branches
_MAX_ASKING_BYTES = 2**29  # git holds all that a remote offers before it says any of it
_PROGRESS = re.compile(r"(Receiving objects|Resolving deltas):\s+(\d+)%")
_WORTH_A_CLONE = {"git_failed", "repo_malformed", "repo_too_large"}  # the mirror itself may be the cause


class Refresh:
    """One refresh of one mirror, while its fetch lock is held."""

    def __init__(self, git: Git, remote: Remote, path: Path, progress: Progress) -> None:
        self._git = git
        self._remote = remote
        self._path = path
        self._progress = progress

    def run(self, commits: Sequence[str]) -> Advertised:
        offered = self._ask()
        known = self._known()
        if known is None or known.digest != offered.digest:
            known = self._renew(offered, intact=known is not None)
        for commit in self._missing(commits):
            self._fetch(self._path, commit)
            self._remember(self._path, known)
        return known

    def _ask(self) -> Advertised:
        try:
            said = self._git.run(
                "ls-remote", "--symref", *self._remote.far_end("upload-pack"), self._remote.url, "HEAD", f"{HEADS}*",
                remote=self._remote, max_output=_MAX_BRANCHES_BYTES, max_memory=_MAX_ASKING_BYTES,
            )  # fmt: skip
        except CommandFailed as failure:
            raise fetch_error(failure, self._remote.url) from None
        return advertised.parse(said, self._remote.url)

    def _known(self) -> Advertised | None:
        """What the last refresh found, if the mirror still is as it was left then; None: it must be cloned."""
        try:
            remembered = (self._path / "farhand").read_bytes()
            return advertised.load(remembered, self._remote.url, pack_sizes(self._path / "objects"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            _log.warning("cloning %s anew: %s", self._path, error, extra={"action": "mirror_damaged"})
            return None

    def _remember(self, path: Path, found: Advertised) -> None:
        partial = path / "farhand.tmp"
        partial.write_text(advertised.dump(found, self._remote.url, pack_sizes(path / "objects")))
        partial.rename(path / "farhand")

    def _renew(self, offered: Advertised, *, intact: bool) -> Advertised:
        if intact:
            try:
                return self._update(self._path, offered)
            except GitError as error:
                if error.code not in _WORTH_A_CLONE:
                    raise
                _log.warning(
                    "fetching into %s failed, cloning anew: %s", self._path, error.message,
                    extra={"action": "mirror_refetch"},
                )  # fmt: skip
        return self._clone(offered)

    def _clone(self, offered: Advertised) -> Advertised:
        new = self._path.with_suffix(".new")
        _remove(new)
        try:
            self._git.run("init", "--quiet", "--bare", "--template=", str(new))
            found = self._update(new, offered)
        except CommandFailed as failure:
            raise local_error(failure, "making a mirror") from None
        except GitError as error:
            _remove(new)
            if error.code == "repo_too_large":
                self._replace_by(None)
            raise
        self._replace_by(new)
        return found

    def _replace_by(self, new: Path | None) -> None:
        old = self._path.with_suffix(".old")
        _remove(old)
        with held(self._path.with_suffix(".packs.lock"), timeout=self._git.settings.git_timeout):
            if self._path.exists():
                self._path.rename(old)
            if new is not None:
                new.rename(self._path)
        _remove(old)

    def _update(self, path: Path, offered: Advertised) -> Advertised:
        """Fetch every branch into `path`. Returns what is there now: a branch may have moved since it was offered."""
        sweep_leftovers(path / "objects")
        self._fetch(path, f"+{HEADS}*:{HEADS}*")
        self._tidy(path)
        self._check_size(path)
        heads = self._local_heads(path)
        found = Advertised(heads, offered.default if offered.default in heads else None, offered.digest)
        self._remember(path, found)
        return found

    def _fetch(self, path: Path, refspec: str) -> None:
        last = ("", -1)

        def report(text: str) -> None:
            nonlocal last
            for stage, percent in _PROGRESS.findall(text)[-1:]:
                if (stage, int(percent)) != last:
                    last = (stage, int(percent))
                    self._progress(stage.lower(), last[1])

        try:
            self._git.run(
                "fetch", "--progress", "--prune", "--force", "--no-tags", "--no-write-fetch-head",
                "--no-auto-maintenance", *self._remote.far_end("upload-pack"), self._remote.url, refspec,
                git_dir=path, remote=self._remote, on_progress=report,
            )  # fmt: skip
        except CommandFailed as failure:
            raise fetch_error(failure, self._remote.url) from None

    def _tidy(self, path: Path) -> None:
        """Keep few packs and no loose objects; nothing is dropped, for tasks build on commits that branches left."""
        objects = path / "objects"
        if not has_loose(objects) and len(pack_sizes(objects)) <= _MAX_PACKS:
            return
        with held(self._path.with_suffix(".packs.lock"), timeout=self._git.settings.git_timeout):
            try:
                self._git.run("repack", "-a", "-d", "-k", "--quiet", git_dir=path)
            except CommandFailed as failure:
                raise local_error(failure, "repacking a mirror") from None

    def _check_size(self, path: Path) -> None:
        limit = self._git.settings.max_repo_bytes
        if total_bytes(path) > limit:
            raise GitError(
                f"{self._remote.url} is larger than this deployment takes ({limit:,} bytes)",
                hint="Ask the operator to raise FARHAND_MAX_REPO_BYTES, or use a smaller repository.",
                code="repo_too_large",
            )

    def _local_heads(self, path: Path) -> dict[str, str]:
        try:
            said = self._git.run("for-each-ref", "--format=%(objectname) %(refname)", HEADS, git_dir=path)
        except CommandFailed as failure:
            raise local_error(failure, "reading a mirror") from None
        lines = (line.partition(" ") for line in said.decode(errors="replace").splitlines())
        return {name.removeprefix(HEADS): sha for sha, _, name in lines}

    def _missing(self, commits: Sequence[str]) -> list[str]:
        if not commits:
            return []
        try:
            said = self._git.run(
                "cat-file", "--batch-check", git_dir=self._path, stdin="".join(f"{sha}\n" for sha in commits).encode()
            )
        except CommandFailed as failure:
            raise local_error(failure, "reading a mirror") from None
        return [line.split()[0] for line in said.decode().splitlines() if line.endswith(" missing")]


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
