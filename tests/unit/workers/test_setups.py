"""What setups have left on a host: one builder for each key, whole results only, and no more than there is room for."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from infra.errors import InvalidInputError, TaskFailedError
from tests.services import make_settings
from workers.setups import MAX_PART_BYTES, Building, SetupStore

A, B, C = "a" * 64, "b" * 64, "c" * 64
DATA = b"what the script has left"


def make(run_dir: Path, **more: Any) -> SetupStore:
    settings = make_settings(database_url="", redis_url="", run_dir=run_dir)
    return SetupStore(settings.model_copy(update={"min_free_bytes": 0, **more}))


@pytest.fixture
def store(tmp_path: Path) -> SetupStore:
    return make(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "in"
    directory.mkdir()
    return directory / "setup.tar"


def begin(store: SetupStore, key: str = A) -> Building:
    building = store.begin(key)
    assert building is not None
    return building


def build(store: SetupStore, key: str, data: bytes, target: Path) -> None:
    building = begin(store, key)
    building.part(0, data)
    building.done(len(data), hashlib.sha256(data).hexdigest(), target)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.suffix for path in (tmp_path / "setup").iterdir())


def test_nothing_is_kept_before_it_was_made(store: SetupStore, target: Path) -> None:
    assert not store.fetch(A, target)
    build(store, A, DATA, target)
    assert target.read_bytes() == DATA
    target.unlink()
    assert store.fetch(A, target)
    assert target.read_bytes() == DATA
    assert target.stat().st_mode & 0o777 == 0o444
    assert not store.fetch(B, target), "another key is another result"
    assert not target.exists()


def test_one_builds_and_the_other_may_when_that_one_gave_up(store: SetupStore, tmp_path: Path, target: Path) -> None:
    first, other = begin(store), make(tmp_path)
    assert other.begin(A) is None
    begin(other, B).give_up()
    first.part(0, DATA)
    first.give_up()
    assert not store.fetch(A, target)
    second = begin(other)
    assert ".part" not in files(tmp_path)
    with pytest.raises(InvalidInputError):
        first.part(0, DATA)
    second.give_up()


def test_only_what_was_announced_is_kept(store: SetupStore, target: Path) -> None:
    building = begin(store)
    building.part(0, DATA)
    building.part(0, b"anew, ")
    building.part(6, b"and on")
    building.part(6, b"and on")  # a repeat
    for offset in (5, 13, -1):
        with pytest.raises(InvalidInputError):
            building.part(offset, b"not in order")
    with pytest.raises(InvalidInputError):
        building.part(12, bytes(MAX_PART_BYTES + 1))
    for size, data in ((13, b"anew, and on"), (12, b"anew, and ON")):
        with pytest.raises(InvalidInputError):
            building.done(size, hashlib.sha256(data).hexdigest(), target)
    assert not store.fetch(A, target)
    digest = hashlib.sha256(b"anew, and on").hexdigest()
    building.done(12, digest, target)
    building.done(12, digest, target)
    assert target.read_bytes() == b"anew, and on"
    with pytest.raises(InvalidInputError):
        building.part(0, b"something else")
    assert target.read_bytes() == b"anew, and on"


def test_more_than_a_sandbox_could_hold_is_refused(tmp_path: Path) -> None:
    building = begin(make(tmp_path, sandbox_disk_bytes=5))
    with pytest.raises(TaskFailedError) as raised:
        building.part(0, bytes(11))
    assert raised.value.code == "setup_too_large"
    building.give_up()


def test_the_host_s_floor_of_room_holds(tmp_path: Path) -> None:
    building = begin(make(tmp_path, min_free_bytes=2**62))
    with pytest.raises(TaskFailedError) as raised:
        building.part(0, DATA)
    assert raised.value.code == "setup_not_kept"
    building.give_up()


def test_the_least_recently_used_go_first_and_take_nothing_from_who_has_them(tmp_path: Path, target: Path) -> None:
    store = make(tmp_path, setup_cache_bytes=2 * len(DATA))
    for key, age in ((A, 300), (B, 200)):
        build(store, key, DATA, target)
        os.utime(tmp_path / "setup" / f"{key}.tar", (1e9 - age, 1e9 - age))
    held = target.with_name("held")
    assert store.fetch(A, held), "used again: B is the older one now"
    build(store, C, DATA, target)
    assert [store.fetch(key, target) for key in (A, B, C)] == [True, False, True]
    assert held.read_bytes() == DATA
    make(tmp_path, setup_cache_bytes=0).prune("")
    assert [store.fetch(key, target) for key in (A, B, C)] == [False, False, False]
    assert held.read_bytes() == DATA


def test_what_a_builder_that_died_has_left_is_swept_and_another_s_is_not(tmp_path: Path, target: Path) -> None:
    store = make(tmp_path)
    build(store, B, DATA, target)
    living = begin(store, C)
    living.part(0, DATA)
    die_while_building(tmp_path, A)
    assert files(tmp_path) == [".lock", ".lock", ".lock", ".part", ".part", ".tar"]
    store.sweep()
    assert files(tmp_path) == [".lock", ".lock", ".part", ".tar"]
    living.done(len(DATA), hashlib.sha256(DATA).hexdigest(), target)
    assert store.fetch(C, target)


def test_who_takes_over_from_a_builder_that_died_begins_anew(tmp_path: Path, target: Path) -> None:
    die_while_building(tmp_path, A)
    store = make(tmp_path)
    assert not store.fetch(A, target)
    build(store, A, DATA, target)
    assert target.read_bytes() == DATA
    assert ".part" not in files(tmp_path)


def die_while_building(run_dir: Path, key: str) -> None:
    """SIGKILL after the first part."""
    spawn = multiprocessing.get_context("spawn")
    told, tells = spawn.Pipe(duplex=False)
    settings = make_settings(database_url="", redis_url="", run_dir=run_dir)
    process = spawn.Process(target=_build_and_wait, args=(settings.run_dir, key, tells))
    process.start()
    assert told.poll(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    told.close()
    tells.close()


def _build_and_wait(run_dir: Path, key: str, tells: Any) -> None:
    begin(make(run_dir), key).part(0, DATA)
    tells.send(None)
    signal.pause()
