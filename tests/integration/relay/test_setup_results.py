"""What the relay takes of a project's setup, from whom, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.protocol import HEADER_OFFSET, SetupDone
from tests.integration.relay.stage import TURN, Attempt, Sandbox
from tests.standin.model import ModelStandIn
from tests.world import World
from workers.relay.masking import Mask

DONE = {"bytes": 3, "sha256": "0" * 64, "not_kept": ["a-secret-value.txt"]}
SECRETS = {"S": "a-secret-value"}


class Kept:
    """Takes everything, and tells what it took."""

    def __init__(self) -> None:
        self.took: list[object] = []

    def part(self, offset: int, data: bytes) -> None:
        self.took.append((offset, data))

    def done(self, done: SetupDone) -> None:
        self.took.append(done["not_kept"])

    def over(self) -> None:
        self.took.append("over")


@pytest.fixture
def attempt(world: World, run_dir: Path) -> Iterator[Attempt]:
    with ModelStandIn({"all": [TURN]}, default="all") as model:
        attempt = Attempt(world, model, run_dir)
        yield attempt
        attempt.close()


@pytest.fixture
def sandbox(attempt: Attempt) -> Iterator[Sandbox]:
    sandbox = Sandbox(attempt.path)
    yield sandbox
    sandbox.close()


def part(sandbox: Sandbox, offset: str, data: bytes) -> int:
    return sandbox.ask("POST", "/setup/part", data, **{HEADER_OFFSET: offset})[0]


def test_pieces_and_the_end_are_passed_on_masked(attempt: Attempt, sandbox: Sandbox) -> None:
    kept = Kept()
    attempt.assign(Mask(SECRETS), kept)
    assert [part(sandbox, "0", b"ab"), part(sandbox, "2", b"\xff")] == [200, 200]
    assert sandbox.ask("POST", "/setup/done", DONE)[0] == 200
    assert kept.took == [(0, b"ab"), (2, b"\xff"), ["***.txt"]]


def test_nothing_is_taken_once_the_agent_works(attempt: Attempt, sandbox: Sandbox) -> None:
    """A command that got to the link could else replace what other tasks are set up with."""
    kept = Kept()
    attempt.assign(setup=kept)
    assert sandbox.messages(1)[0] == 200
    for status in (part(sandbox, "0", b"ab"), sandbox.ask("POST", "/setup/done", DONE)[0]):
        assert status == 400
    assert kept.took == ["over"]


def test_nor_where_nothing_is_to_be_built(attempt: Attempt, sandbox: Sandbox) -> None:
    attempt.assign()
    assert part(sandbox, "0", b"ab") == 400
    assert sandbox.ask("POST", "/setup/done", DONE)[0] == 400


def test_nor_after_the_lease_is_gone(attempt: Attempt, sandbox: Sandbox) -> None:
    kept = Kept()
    attempt.assign(setup=kept)
    attempt.lose()
    assert sandbox.ask("POST", "/setup/done", DONE)[0] == 410
    assert kept.took == []


@pytest.mark.parametrize("offset", ["", "x", "1.5"])
def test_what_is_no_offset_is_refused(attempt: Attempt, sandbox: Sandbox, offset: str) -> None:
    attempt.assign(setup=Kept())
    assert part(sandbox, offset, b"ab") == 400
