"""The material of the acceptance test: a real package whose own tests are red, and green after upstream's edit."""

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.acceptance.material import package
from tests.conftest import need


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("package") / "repo"
    need("sdist", package.why_unavailable())
    assert package.make_repo(directory) == package.HEAD
    return directory


def run_tests(directory: Path) -> str:
    result = subprocess.run(
        package.TEST_COMMAND.split(), cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )
    return result.stderr


def test_its_tests_are_red_and_the_edit_turns_them_green(repo: Path) -> None:
    before = run_tests(repo)
    assert package.RED in before
    assert re.findall(r"^FAIL: (\w+)", before, re.MULTILINE) == ["test_int_convert_stateless_base"]
    source = repo / package.FIXED_FILE
    assert source.read_text().count(package.FIX_OLD) == 1
    source.write_text(source.read_text().replace(package.FIX_OLD, package.FIX_NEW))
    after = run_tests(repo)
    assert package.GREEN in after
    assert after.rstrip().endswith("OK")


def test_the_edit_is_upstreams(repo: Path) -> None:
    with tarfile.open(package.fetch_sdist(sdist=package.FIXED)) as archive:
        upstream = archive.extractfile("parse-1.18.0/parse.py")
        assert upstream is not None
        assert package.FIX_NEW in upstream.read().decode()


def test_nothing_is_left_behind_in_the_work_tree(repo: Path) -> None:
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=repo, capture_output=True, text=True, check=True)
    assert set(changed.stdout.split()) <= {"M", package.FIXED_FILE}


def test_a_cached_file_that_was_tampered_with_is_not_used(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = package.fetch_sdist()
    monkeypatch.setattr(package, "_download", lambda _, into: Path(shutil.copy(genuine, into)))
    (tmp_path / package.BUGGY.file_name).write_bytes(b"something else")
    assert package.fetch_sdist(tmp_path).read_bytes() == genuine.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [package.BUGGY.file_name]


def test_a_download_with_another_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(sdist: package.Sdist, into: Path) -> Path:
        (into / sdist.file_name).write_bytes(b"something else")
        return into / sdist.file_name

    monkeypatch.setattr(package, "_download", download)
    with pytest.raises(package.SdistUnavailable, match="sha256"):
        package.fetch_sdist(tmp_path)


def test_without_any_pip_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_pips", lambda: iter(()))
    with pytest.raises(package.SdistUnavailable, match=r"could not be downloaded: there is no pip"):
        package.fetch_sdist(tmp_path)
    assert package.why_unavailable(tmp_path) == "parse-1.17.0.tar.gz could not be downloaded: there is no pip"


def test_it_is_available_when_both_are_cached(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_pips", lambda: iter(()))
    assert package.why_unavailable() is None


def test_the_trajectory_names_only_tools_of_the_contract() -> None:
    contract = {
        "read_file": {"path", "start_line", "end_line"},
        "edit_file": {"path", "old", "new"},
        "search_files": {"pattern", "path", "glob"},
        "run_command": {"command", "timeout_s"},
    }
    calls = [block for turn in package.trajectory() for block in turn["content"] if block["type"] == "tool_use"]
    assert {call["name"] for call in calls} == set(contract)
    for call in calls:
        assert set(call["input"]) <= contract[call["name"]]
    commands = [call["input"]["command"] for call in calls if call["name"] == "run_command"]
    assert commands == [package.TEST_COMMAND] * 2
