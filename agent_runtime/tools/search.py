"""list_files and search_files: what git tracks or would track; ignored files are left out."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator

from agent_runtime.beneath import DIRECTORY, Place, locate
from agent_runtime.git import Git
from agent_runtime.tools.process import run_bounded
from agent_runtime.tools.specification import Args, Context, Output, Tool, ToolError

SEARCH_TIMEOUT_S = 30.0
MAX_FILES = 1000
MAX_COLUMNS = 400


def list_files(context: Context, args: Args) -> Output:
    path, pattern = args.get("path", "."), args.get("pattern", "")
    with locate(context.paths.repo, path) as place:
        found = _known_to_git(context, place, pattern)
        if not found and not pattern:
            found = sorted(_directly_in(place))
    if not found:
        return Output(f"There are no files{f' like {pattern}' if pattern else ''} in {path!r}.")
    text = "\n".join(found[:MAX_FILES])
    if len(found) > MAX_FILES:
        text += f"\n[… {len(found) - MAX_FILES} more files; narrow it down with path or pattern]"
    return Output(text, truncated=len(found) > MAX_FILES)


def search_files(context: Context, args: Args) -> Output:
    path, pattern = args.get("path", "."), args["pattern"]
    with locate(context.paths.repo, path) as place:
        os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        argv, environment = _search_command(context, pattern, place, args.get("glob", ""))
    timeout = min(SEARCH_TIMEOUT_S, context.time_left_s)
    done = run_bounded(argv, context.paths.repo, environment, timeout, context.limits["output_bytes"])
    if done.timed_out_after_s is not None:
        raise ToolError(f"The search took longer than {timeout:g} s. Narrow it down with path or glob.")
    text = done.output.text()
    if done.code not in (0, 1):
        raise ToolError(f"The search failed:\n{text}")
    return Output(text or f"Nothing in {path!r} matches {pattern!r}.", truncated=bool(done.output.cut))


def _search_command(context: Context, pattern: str, place: Place, glob: str) -> tuple[list[str], dict[str, str]]:
    """Ripgrep where the image has it, else git grep: both know what to ignore."""
    environment = context.paths.environment()
    ripgrep = shutil.which("rg", path=environment["PATH"])
    if not ripgrep:
        grep = ["git", "grep", "--untracked", "--no-color", "-InE", "-e", pattern, "--", _pathspec(place, glob)]
        return grep, _git(context).environment
    options = ["--no-config", "--line-number", "--no-heading", "--with-filename", "--color=never", "--hidden"]
    options += ["--sort=path", f"--max-columns={MAX_COLUMNS}", "--max-columns-preview", "--glob=!.git"]
    options += [f"--glob={glob}"] if glob else []
    where = [] if place.path == "." else ["--", place.path]
    return [ripgrep, *options, "-e", pattern, *where], environment


def _known_to_git(context: Context, place: Place, pattern: str) -> list[str]:
    spec = _pathspec(place, pattern)
    listed = _git(context)("ls-files", "-z", "-co", "--exclude-standard", "--deduplicate", "--", spec)
    repo = os.fsencode(context.paths.repo)
    names = sorted(name for name in listed.split(b"\0") if name and os.path.lexists(os.path.join(repo, name)))
    return [name.decode(errors="replace") for name in names]


def _pathspec(place: Place, pattern: str) -> str:
    """For git: everything at the place, or what matches the pattern there, at any depth unless it says which."""
    if not pattern:
        return f":(literal){place.path}" if place.path != "." else "."
    inside = "" if place.path == "." else re.sub(r"([*?\[\\])", r"\\\1", place.path) + "/"
    return f":(glob){inside}{pattern if '/' in pattern else '**/' + pattern}"


def _directly_in(place: Place) -> Iterator[str]:
    """Git shows nothing of an ignored directory: then show what is in it, one level deep."""
    status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        yield place.path
        return
    descriptor = place.open(DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if entry.name != ".git":
                    slash = "/" if entry.is_dir(follow_symlinks=False) else ""
                    yield f"{'' if place.path == '.' else place.path + '/'}{entry.name}{slash}"
    finally:
        os.close(descriptor)


def _git(context: Context) -> Git:
    return Git(context.paths.snapshots, context.paths.repo, context.paths.environment())


_PATH = {"type": "string", "description": "Directory or file relative to the workspace; default: all of it."}

LIST_FILES = Tool(
    name="list_files",
    description="List files below a directory, without those that git ignores.",
    properties={
        "path": _PATH,
        "pattern": {"type": "string", "description": "Only names like this, e.g. *.py or src/**/test_*.py."},
    },
    required=(),
    run=list_files,
    changes_files=False,
)

SEARCH_FILES = Tool(
    name="search_files",
    description="Search file contents by regular expression. Gives path:line:text, without files that git ignores.",
    properties={
        "pattern": {"type": "string", "description": "The regular expression."},
        "path": _PATH,
        "glob": {"type": "string", "description": "Only files like this, e.g. *.py."},
    },
    required=("pattern",),
    run=search_files,
    changes_files=False,
)
