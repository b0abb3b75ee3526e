"""A real package with a real bug, and a trajectory that finds and fixes it.

package     parse, the opposite of str.format(): one pure Python module, no dependencies, unittest
licence     MIT (LICENSE in both source distributions)
buggy       1.17.0, sha256 c7806139a481ec8c8336a54418894c8b201314f8ecc63e55f438f4b72bdc4485
fixed       1.18.0, sha256 91666032d6723dc5905248417ef0dc9e4c51df9526aaeef271eacad6491f06a4
the bug     `int_convert` keeps the base it detected for one string on itself, so a parser that read "1234" takes
            every later number for decimal: `Parser("{:d}")` then reads "0b1011" as 1011, not as 11. Came with
            1.16.0; the changelog of 1.18.0 says "Correct bug in int parsing introduced in 1.16.0".
the test    upstream's own, `test_int_convert_stateless_base`, came with the fix. The repository made here is therefore
            the tree of 1.17.0 with test_parse.py of 1.18.0, the state in which upstream had the test and not
            yet the fix: 78 tests, of which exactly that one fails (Python 3.11).
the fix     upstream's: a local variable in place of the attribute, in `int_convert.__call__`. `FIX_OLD` and `FIX_NEW`
            are those lines before and after it.

Nothing of the package is kept in Farhand's repository but those lines. The source distributions come from the
package index through pip, once, and are checked against the sums above each time.
"""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.standin.git_command import run_git

TRAJECTORY_NAME = "parse"
PROMPT = f"test_int_convert_stateless_base in test_parse.py fails. Make it pass. [trajectory:{TRAJECTORY_NAME}]"
TEST_COMMAND = "python3 -m unittest test_parse"
RED = "FAILED (failures=1)"
GREEN = "Ran 78 tests"
FINAL_MESSAGE = "The converter no longer remembers the base of an earlier number; all 78 tests pass."
FIXED_FILE = "parse.py"
HEAD = "ef4619b88eba93e6db1cf816255e79030c0c9a52"  # of the repository that make_repo makes

FIX_OLD = """\
        # If base wasn't specified, detect it automatically
        if self.base is None:

            # Assume decimal number, unless different base is detected
            self.base = 10

            # For number formats starting with 0b, 0o, 0x, use corresponding base ...
            if string[number_start] == '0' and len(string) - number_start > 2:
                if string[number_start + 1] in 'bB':
                    self.base = 2
                elif string[number_start + 1] in 'oO':
                    self.base = 8
                elif string[number_start + 1] in 'xX':
                    self.base = 16

        chars = int_convert.CHARS[: self.base]
        string = re.sub('[^%s]' % chars, '', string.lower())
        return sign * int(string, self.base)
"""
FIX_NEW = "        base = self.base\n" + FIX_OLD.replace("self.base", "base")


_PIP_DEADLINE_S = 40
"""Of one pip; all of them together stay below the time that a test may take."""


class SdistUnavailable(RuntimeError):  # noqa: N818 - it says what is the matter
    """The source distribution is neither cached nor can it be downloaded. Connect to a package index once."""


@dataclass(frozen=True)
class Sdist:
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"parse-{self.version}.tar.gz"


BUGGY = Sdist("1.17.0", "c7806139a481ec8c8336a54418894c8b201314f8ecc63e55f438f4b72bdc4485")
FIXED = Sdist("1.18.0", "91666032d6723dc5905248417ef0dc9e4c51df9526aaeef271eacad6491f06a4")


@functools.cache  # asked by several tests, and without network the answer takes a while
def why_unavailable(cache_dir: Path | None = None) -> str | None:
    """Why `make_repo` can't be called here, None when it can. Downloads what is not cached."""
    try:
        for sdist in (BUGGY, FIXED):
            fetch_sdist(cache_dir, sdist)
    except SdistUnavailable as unavailable:
        return str(unavailable)
    return None


def fetch_sdist(cache_dir: Path | None = None, sdist: Sdist = BUGGY) -> Path:
    """The source distribution's path, downloaded on first use; without network it must be there already.

    `cache_dir` defaults to `farhand/sdists` in the user's cache. Raises SdistUnavailable.
    """
    cache_dir = cache_dir or _default_cache()
    cached = cache_dir / sdist.file_name
    if cached.exists() and _sha256(cached) == sdist.sha256:
        return cached
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as download_dir:
        downloaded = _download(sdist, Path(download_dir))
        if _sha256(downloaded) != sdist.sha256:
            raise SdistUnavailable(f"{downloaded.name} from the package index is not the file whose sha256 is known")
        downloaded.replace(cached)  # two tests at once may do this; each puts a whole file there
    return cached


def make_repo(directory: Path, cache_dir: Path | None = None) -> str:
    """Make `directory` a git work tree on `main` in which one test fails because of the bug; returns HEAD's id.

    Two commits with fixed author and dates, so the id is always the same. Raises SdistUnavailable.
    """
    buggy, fixed = fetch_sdist(cache_dir, BUGGY), fetch_sdist(cache_dir, FIXED)
    directory.mkdir(parents=True, exist_ok=True)
    run_git("init", "--quiet", "--initial-branch=main", str(directory))
    _unpack(buggy, directory)
    (directory / ".gitignore").write_text("__pycache__/\n")
    _commit_all(directory, "parse 1.17.0")
    _unpack(fixed, directory, "parse-1.18.0/test_parse.py")
    _commit_all(directory, "Test that a parser reads each number in its own base")
    return run_git("rev-parse", "HEAD", cwd=directory).strip()


def trajectory() -> list[dict[str, Any]]:
    """For the model stand-in: search, read, tests red, edit as upstream did, tests green, end."""
    return [
        _turn(
            "I'll look for the code that converts integers.",
            _call("search_files", pattern="int_convert", glob="*.py"),
            input_tokens=1800,
        ),
        _turn(
            "The converter and the failing test:",
            _call("read_file", path=FIXED_FILE, start_line=508, end_line=557),
            _call("search_files", pattern="def test_int_convert_stateless_base", path="test_parse.py"),
            input_tokens=2300,
        ),
        _turn(
            "I'll run the tests to see it fail.",
            _call("run_command", command=TEST_COMMAND, timeout_s=60),
            input_tokens=3500,
        ),
        _turn(
            "`__call__` keeps the detected base on `self`, so the next number is read in it. A local variable will do.",
            _call("edit_file", path=FIXED_FILE, old=FIX_OLD, new=FIX_NEW),
            input_tokens=4200,
        ),
        _turn("Now the tests again.", _call("run_command", command=TEST_COMMAND), input_tokens=4900),
        _turn(FINAL_MESSAGE, input_tokens=5200),
    ]


def _turn(text: str, *calls: dict[str, Any], input_tokens: int) -> dict[str, Any]:
    usage = {"input_tokens": input_tokens, "output_tokens": 40 + 60 * len(calls)}
    return {"content": [{"type": "text", "text": text}, *calls], "usage": usage}


def _call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "name": tool, "input": arguments}


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "farhand" / "sdists"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _download(sdist: Sdist, into: Path) -> Path:
    """Through the first pip that there is: the development environment is made by uv and carries none itself."""
    download = ["download", "--quiet", "--no-deps", "--no-binary=:all:", f"--dest={into}", f"parse=={sdist.version}"]
    patience = ["--retries=2", "--timeout=10"]
    failures = []
    for pip in _pips():
        try:
            result = subprocess.run(
                [*pip, *download, *patience], capture_output=True, text=True, check=False, timeout=_PIP_DEADLINE_S
            )
        except subprocess.TimeoutExpired:
            failures.append(f"{' '.join(pip)}: nothing came of it within {_PIP_DEADLINE_S} s")
            continue
        if result.returncode == 0 and (into / sdist.file_name).exists():
            return into / sdist.file_name
        failures.append(f"{' '.join(pip)}: {_said(result.stderr)}")
    raise SdistUnavailable(f"{sdist.file_name} could not be downloaded: {'; '.join(failures) or 'there is no pip'}")


def _said(output: str) -> str:
    """The first line that calls itself an error, else the last one."""
    lines = output.strip().splitlines() or ["nothing"]
    return next((line for line in lines if line.lower().startswith("error")), lines[-1])


def _pips() -> Iterator[list[str]]:
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("uv"):
        yield [sys.executable, "-m", "uv", "tool", "run", "pip"]
    if uv := shutil.which("uv"):
        yield [uv, "tool", "run", "pip"]
    if python := shutil.which("python3"):
        yield [python, "-m", "pip"]


def _unpack(sdist: Path, directory: Path, *members: str) -> None:
    subprocess.run(["tar", "-xzf", sdist, "-C", directory, "--strip-components=1", *members], check=True)


def _commit_all(directory: Path, message: str) -> None:
    run_git("add", "--all", cwd=directory)
    run_git("commit", "--quiet", f"--message={message}", cwd=directory)
