"""read_file, write_file, edit_file: whole regular files below the workspace."""

from __future__ import annotations

import difflib
import os
import stat

from agent_runtime.beneath import Place, locate
from agent_runtime.tools.bounded import bounded, readable
from agent_runtime.tools.specification import Args, Context, Output, Tool, ToolError

MAX_READ_BYTES = 16 << 20
SNIFF_BYTES = 8192
MAX_HINT_LINES = 20_000


def read_file(context: Context, args: Args) -> Output:
    path, start, end = args["path"], args.get("start_line", 1), args.get("end_line")
    if end is not None and end < start:
        raise ToolError(f"end_line {end} comes before start_line {start}.")
    with locate(context.paths.repo, path) as place:
        data, size = _read(place, path)
    if b"\0" in data[:SNIFF_BYTES]:
        raise ToolError(f"{path} is not a text file ({size} bytes). Look at it with run_command: file, xxd, …")
    lines = data.splitlines(keepends=True)
    if start > max(len(lines), 1):
        raise ToolError(f"{path} has {len(lines)} lines; start_line {start} is beyond its end.")
    return _numbered(lines, start, end, size - len(data), context.limits["output_bytes"])


def _numbered(lines: list[bytes], start: int, end: int | None, unread: int, limit: int) -> Output:
    """Lines with their numbers, as many as the limit allows, and what is missing said in the last line."""
    shown: list[str] = []
    used = 0
    last = min(end or len(lines), len(lines))
    for number in range(start, last + 1):
        line = f"{number:>6}\t{readable(lines[number - 1])}"
        used += len(line.encode())
        if used > limit and shown:
            break
        shown.append(bounded(line.encode(), limit)[0])
    text = "".join(shown)
    shown_to = start + len(shown) - 1
    notes = []
    if shown_to < len(lines) and (end is None or shown_to < end):
        notes.append(f"lines {shown_to + 1} to {len(lines)} follow: go on with start_line {shown_to + 1}")
    if unread:
        notes.append(f"{unread} more bytes are beyond what this tool reads: use run_command with sed or tail")
    if not lines:
        notes.append("the file is empty")
    if notes:
        text += ("" if text.endswith("\n") or not text else "\n") + f"[{'; '.join(notes)}]"
    return Output(text, truncated=shown_to < last or bool(unread))


def write_file(context: Context, args: Args) -> Output:
    path, content = args["path"], args["content"].encode()
    with locate(context.paths.repo, path, make_directories=True) as place:
        existed = _replace(place, path, content)
    return Output(f"{'Replaced' if existed else 'Wrote'} {path} ({len(content)} bytes).")


def edit_file(context: Context, args: Args) -> Output:
    path, old, new = args["path"], args["old"].encode(), args["new"].encode()
    if not old:
        raise ToolError("`old` is empty. Name the text to replace; write_file makes a new file.")
    if old == new:
        raise ToolError("`old` and `new` are the same: there is nothing to change.")
    with locate(context.paths.repo, path) as place:
        data, size = _read(place, path)
        if size > len(data):
            raise ToolError(f"{path} is too big for this tool ({size} bytes). Use run_command with sed or python.")
        found = data.count(old)
        if found != 1:
            raise ToolError(_why_not(path, data, args["old"], found))
        _replace(place, path, data.replace(old, new))
    line = data[: data.index(old)].count(b"\n") + 1
    return Output(f"Edited {path}: replaced 1 occurrence, at line {line}.")


def _why_not(path: str, data: bytes, old: str, found: int) -> str:
    if found:
        return f"`old` occurs {found} times in {path}. Give more of the surrounding lines, so that it is unique."
    lines = readable(data).splitlines()[:MAX_HINT_LINES]
    wanted = [line.strip() for line in old.splitlines()]
    stripped = [line.strip() for line in lines]
    for start in range(len(lines) - len(wanted) + 1):
        if stripped[start : start + len(wanted)] == wanted:
            shown = "\n".join(lines[start : start + len(wanted)])
            return f"`old` is not in {path}, but with other white space it is, at line {start + 1}:\n{shown}"
    first = next((line for line in wanted if line), "")
    near = difflib.get_close_matches(first, [line for line in stripped if line], n=1)
    if near:
        number = stripped.index(near[0])
        return f"`old` is not in {path}. The nearest to its first line is line {number + 1}:\n{lines[number]}"
    return f"`old` is not in {path}, nor anything like it. Read the file again."


def _read(place: Place, path: str) -> tuple[bytes, int]:
    """The first MAX_READ_BYTES and the whole size."""
    descriptor = place.open(os.O_RDONLY)
    try:
        size = _size_of_regular(os.fstat(descriptor), path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_READ_BYTES), size
    finally:
        os.close(descriptor)


def _size_of_regular(status: os.stat_result, path: str) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise ToolError(f"{path} is a directory. Use list_files.")
    if not stat.S_ISREG(status.st_mode):
        raise ToolError(f"{path} is not a regular file.")
    return status.st_size


def _replace(place: Place, path: str, content: bytes) -> bool:
    """Write beside the file and rename, so that a full disk leaves the old one whole. Returns whether it existed."""
    mode = _mode(place, path)
    beside = place._replace(name=f".{os.urandom(8).hex()}.farhand")
    descriptor = beside.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if mode is not None:
                os.fchmod(descriptor, mode)
        os.replace(beside.name, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        os.unlink(beside.name, dir_fd=place.directory)
        raise
    return mode is not None


def _mode(place: Place, path: str) -> int | None:
    """Permissions of the file that is there; None when there is none."""
    try:
        status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _size_of_regular(status, path)
    return stat.S_IMODE(status.st_mode)


_PATH = {"type": "string", "description": "Path relative to the workspace."}

READ_FILE = Tool(
    name="read_file",
    description="Read a text file. Every line comes with its number and a tab before it.",
    properties={
        "path": _PATH,
        "start_line": {"type": "integer", "minimum": 1, "description": "First line; default 1."},
        "end_line": {"type": "integer", "minimum": 1, "description": "Last line; default: the end of the file."},
    },
    required=("path",),
    run=read_file,
    changes_files=False,
)

WRITE_FILE = Tool(
    name="write_file",
    description="Write a whole text file, new or in place of the old one. Directories are made as needed.",
    properties={"path": _PATH, "content": {"type": "string", "description": "The whole new content."}},
    required=("path", "content"),
    run=write_file,
    changes_files=True,
)

EDIT_FILE = Tool(
    name="edit_file",
    description=(
        "Replace one piece of text in a file. `old` must occur exactly once, white space included; give enough "
        "of the surrounding lines to make it unique. Line numbers of read_file are not part of the text."
    ),
    properties={
        "path": _PATH,
        "old": {"type": "string", "description": "The text as it stands in the file."},
        "new": {"type": "string", "description": "What to put in its place."},
    },
    required=("path", "old", "new"),
    run=edit_file,
    changes_files=True,
)
