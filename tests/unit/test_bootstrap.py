"""`./farhand` as a stranger meets it: copied into an empty checkout, with real interpreters, uv and pip, no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60
NOBODY = 65534
BASE_PYTHON = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
UV = str(Path(sys.prefix) / "bin" / "uv")
# What a later start may call. Anything else (uv, pip, Python) is a failure: it is not on this PATH.
TOOLS_OF_A_LATER_START = ("dirname", "readlink", "cmp")

# Stands in the place of infra/cli: says how it was called.
CLI = """
import json, os, sys
import tiny
print(json.dumps({"arguments": sys.argv[1:], "cwd": os.getcwd(), "path": sys.path, "prefix": sys.prefix,
                  "tiny": tiny.VERSION}))
sys.exit(7 if "fail" in sys.argv else 0)
"""


@dataclass
class Checkout:
    """A directory that looks like a fresh clone, and the environment in which its script is called."""

    root: Path
    home: Path
    wheels: Path
    tools: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def script(self) -> Path:
        return self.root / "farhand"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def lock(self, *wheels: Path) -> None:
        """The lock file names exactly these wheels."""
        lines = [f"{'=='.join(wheel.name.split('-')[:2])} \\\n    --hash=sha256:{_sha256(wheel)}\n" for wheel in wheels]
        (self.root / "requirements-dev.lock").write_text("".join(lines))

    def start(
        self, *arguments: str, script: Path | None = None, cwd: Path | None = None, user: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [str(script or self.script), *arguments]
        return subprocess.run(
            command,
            env=self.env,
            cwd=cwd or self.home,
            user=user,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    @contextmanager
    def begin(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A start that is not waited for. It is killed, with what it started, when the block is left."""
        process = subprocess.Popen(
            [str(self.script), *arguments],
            env=self.env,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def tool(self, name: str, text: str) -> None:
        """Puts an executable on PATH, before the others."""
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def hold_installations(self) -> tuple[Path, Path]:
        """From now on `uv pip` opens the first fifo when it begins, and goes on when the second was written to."""
        begun, go_on = self.home / "begun", self.home / "go_on"
        os.mkfifo(begun)
        os.mkfifo(go_on)
        hold = f'[ "$1" != pip ] || {{ echo >"{begun}"; read -r _ <"{go_on}"; }}'
        self.tool("uv", f'#!/bin/sh\n{hold}\nexec "{UV}" "$@"\n')
        return begun, go_on

    def release_installations(self) -> None:
        (self.tools / "uv").unlink()
        (self.tools / "uv").symlink_to(UV)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that another user can enter, which pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="farhand-bootstrap-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture
def checkout(place: Path) -> Checkout:
    made = Checkout(place / "a clone", place / "home", place / "wheels", place / "tools")
    for directory in (made.root / "infra", made.home, made.wheels, made.tools):
        directory.mkdir(parents=True)
    shutil.copy(REPOSITORY / "farhand", made.script)
    (made.root / "infra" / "__init__.py").touch()
    (made.root / "infra" / "cli.py").write_text(CLI)
    made.lock(_tiny_wheel(made.wheels, "1.0"))
    (made.tools / "uv").symlink_to(UV)
    (made.tools / "python3").symlink_to(BASE_PYTHON)
    made.env = {
        "HOME": str(made.home),
        "PATH": f"{made.tools}:/usr/bin:/bin",
        "FARHAND_PYTHON": "python3",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(made.wheels),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(made.wheels),
    }
    return made


def test_the_first_start_installs_the_lock_and_runs_the_command(checkout: Checkout, place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tiny.py").write_text("raise SystemExit('the directory of the caller is on the import path')")
    started = checkout.start("run", "two words", "", cwd=elsewhere)
    said = json.loads(started.stdout)
    assert said["arguments"] == ["run", "two words", ""]
    assert said["cwd"] == str(elsewhere)
    assert said["path"][0] == str(checkout.root)
    assert said["prefix"] == str(checkout.venv)
    assert "installing about 1 packages" in started.stderr
    assert checkout.start("fail").returncode == 7


def test_packages_are_compiled_where_python_may_not_keep_what_it_compiles(checkout: Checkout) -> None:
    checkout.env["PYTHONDONTWRITEBYTECODE"] = "1"
    assert checkout.start().returncode == 0
    (compiled,) = checkout.venv.rglob("tiny*.pyc")
    assert compiled.stat().st_size > 0


def test_a_later_start_needs_neither_uv_nor_python_on_path_and_says_nothing(checkout: Checkout, place: Path) -> None:
    checkout.start()
    few = place / "few"
    few.mkdir()
    for name in TOOLS_OF_A_LATER_START:
        (few / name).symlink_to(str(shutil.which(name)))
    checkout.env = {"PATH": str(few), "HOME": str(checkout.home)}
    later = checkout.start("again")
    assert json.loads(later.stdout)["arguments"] == ["again"]
    assert later.stderr == ""


def test_a_symlink_leads_to_the_same_environment(checkout: Checkout, place: Path) -> None:
    (place / "links").mkdir()
    (place / "links" / "relative").symlink_to("../a clone/farhand")
    (place / "farhand").symlink_to(place / "links" / "relative")
    started = checkout.start(script=place / "farhand")
    assert json.loads(started.stdout)["prefix"] == str(checkout.venv)


def test_a_changed_lock_is_installed(checkout: Checkout) -> None:
    assert json.loads(checkout.start().stdout)["tiny"] == "1.0"
    checkout.lock(_tiny_wheel(checkout.wheels, "2.10"))
    started = checkout.start()
    assert json.loads(started.stdout)["tiny"] == "2.10"
    assert "the lock file has changed" in started.stderr


def test_a_package_with_another_hash_is_refused(checkout: Checkout) -> None:
    _tiny_wheel(checkout.wheels, "1.0", extra="# not what was locked")
    started = checkout.start()
    assert started.returncode != 0
    assert "[install_failed]" in started.stderr
    assert not (checkout.venv / "farhand-stamp").exists()


def test_a_moved_checkout_is_installed_again(checkout: Checkout, place: Path) -> None:
    checkout.start()
    checkout.root = checkout.root.rename(place / "moved")
    started = checkout.start()
    assert json.loads(started.stdout)["prefix"] == str(checkout.venv)
    assert "installing" in started.stderr  # its scripts name their interpreter by its old path


def test_a_killed_installation_is_repaired_by_the_next_start(checkout: Checkout) -> None:
    begun, _ = checkout.hold_installations()
    with checkout.begin():
        begun.read_text()
    checkout.release_installations()
    started = checkout.start()
    assert json.loads(started.stdout)["tiny"] == "1.0"
    assert "waiting" not in started.stderr


def test_of_two_first_starts_one_waits_and_says_so(checkout: Checkout) -> None:
    begun, go_on = checkout.hold_installations()
    with checkout.begin("first") as first:
        begun.read_text()
        with checkout.begin("second") as second:
            assert second.stderr is not None
            assert "waiting for another start" in second.stderr.readline()
            go_on.write_text("\n")
            outputs = [process.communicate(timeout=DEADLINE_S)[0] for process in (first, second)]
    assert [json.loads(output)["arguments"] for output in outputs] == [["first"], ["second"]]


def test_without_uv_on_path_pip_fetches_the_locked_one(checkout: Checkout) -> None:
    (checkout.tools / "uv").unlink()
    checkout.lock(_tiny_wheel(checkout.wheels, "1.0"), _uv_wheel(checkout.wheels))
    started = checkout.start()
    assert json.loads(started.stdout)["tiny"] == "1.0"
    assert "fetching uv" in started.stderr
    checkout.lock(_tiny_wheel(checkout.wheels, "2.10"), _uv_wheel(checkout.wheels))
    assert json.loads(checkout.start().stdout)["tiny"] == "2.10"


def test_an_old_python_is_refused_in_plain_words(checkout: Checkout) -> None:
    pretend = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[1])"
    checkout.tool("python3", f'#!/bin/sh\nexec "{BASE_PYTHON}" -c "{pretend}" "$2"\n')
    started = checkout.start()
    assert started.returncode == 1
    assert "Python 3.11 or later is needed; python3 is 3.9.18." in started.stderr
    assert "FARHAND_PYTHON=" in started.stderr
    assert "[python_too_old]" in started.stderr
    assert not checkout.venv.exists()


def test_an_interpreter_that_does_not_run_is_passed_over(checkout: Checkout) -> None:
    del checkout.env["FARHAND_PYTHON"]
    checkout.tool("python3.12", "#!/bin/sh\nexit 127\n")
    (checkout.tools / "python3.11").symlink_to(BASE_PYTHON)
    assert json.loads(checkout.start().stdout)["tiny"] == "1.0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as another user")
def test_an_ordinary_user_of_roots_clone_gets_an_environment_in_the_cache(checkout: Checkout) -> None:
    reachable = shutil.which("python3", path="/usr/bin:/bin")
    if reachable is None:
        pytest.skip("no interpreter outside root's own directories")
    (checkout.tools / "uv").unlink()
    shutil.copy(UV, checkout.tools / "uv")
    checkout.env["FARHAND_PYTHON"] = reachable
    shutil.chown(checkout.home, NOBODY)
    started = checkout.start("x", user=NOBODY)
    assert json.loads(started.stdout)["prefix"].startswith(str(checkout.home / ".cache" / "farhand" / "venv-"))
    assert not checkout.venv.exists()


def test_lock_writes_hashes_and_no_address(checkout: Checkout) -> None:
    (checkout.root / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["tiny"]\n'
        "[dependency-groups]\ndev = []\n"
    )
    digest = _sha256(_tiny_wheel(checkout.wheels, "2.10"))
    started = checkout.start("lock", "--upgrade")
    assert started.returncode == 0, started.stderr
    for name in ("requirements.lock", "requirements-dev.lock"):
        locked = (checkout.root / name).read_text().splitlines()
        assert locked[0] == "tiny==2.10 \\"
        assert f"    --hash=sha256:{digest}" in [line.removesuffix(" \\") for line in locked[1:]]
        assert not [line for line in locked if "/" in line]


def _tiny_wheel(directory: Path, version: str, *, extra: str = "") -> Path:
    # Versions differ in length: Python tells changed sources by size and whole seconds.
    return _write_wheel(directory, "tiny", version, {"tiny.py": f"VERSION = '{version}'\n{extra}".encode()})


def _uv_wheel(directory: Path) -> Path:
    """The installed uv, packed again: the real program, from a place that needs no network."""
    version = distribution("uv").version
    return _write_wheel(directory, "uv", version, {f"uv-{version}.data/scripts/uv": Path(UV).read_bytes()})


def _write_wheel(directory: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{about}/RECORD"))
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{about}/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(entry, content)
    return wheel


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
