"""The one read job of a subscriber, driven by several threads: nothing is missed, and nothing runs twice at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from api.gateway.close_codes import Close
from api.gateway.read_job import ReadJob
from api.gateway.readers import Readers
from infra.errors import UnavailableError

DEADLINE_S = 20.0


class Client:
    """The socket of a client that has room, or has not, as a test says."""

    def __init__(self) -> None:
        self.room = True
        self.closed_with: int | None = None

    @property
    def closing(self) -> bool:
        return self.closed_with is not None

    def has_room(self) -> bool:
        return self.room

    def close(self, reason: int, message: str) -> None:  # noqa: ARG002  (the signature of a socket)
        self.closed_with = reason


class Owner:
    """Wants to read up to `newest`; each read takes what it finds when it begins, as Postgres would show it."""

    def __init__(self, readers: Readers, on_read: Callable[[], None] = lambda: None) -> None:
        self.client = Client()
        self.job = ReadJob(wanted=lambda: self.read < self.newest, read=self._read, socket=self.client, readers=readers)
        self.newest = 0
        self.read = 0
        self.begun = 0
        self.reading = 0
        self.overlapped = False
        self.caught_up = threading.Condition(self.job.lock)
        self._on_read = on_read

    def noticed(self) -> None:
        with self.job.lock:
            self.newest += 1
            self.job.queue()

    def wait_until_read(self, seq: int) -> bool:
        with self.caught_up:
            return self.caught_up.wait_for(lambda: self.read >= seq, DEADLINE_S)

    def _read(self) -> None:
        with self.job.lock:
            self.begun += 1
            self.reading += 1
            self.overlapped = self.overlapped or self.reading > 1
            found = self.newest
        try:
            self._on_read()
            with self.caught_up:
                self.read = found
                self.caught_up.notify_all()
        finally:
            with self.job.lock:
                self.reading -= 1


@pytest.fixture
def readers() -> Iterator[Readers]:
    yield from _started(4)


@pytest.fixture
def one_reader() -> Iterator[Readers]:
    """One thread: what is queued first is done first."""
    yield from _started(1)


def _started(threads: int) -> Iterator[Readers]:
    readers = Readers(threads)
    readers.start()
    yield readers
    readers.stop()


def test_whatever_comes_during_a_read_is_read_after_it(readers: Readers) -> None:
    owner = Owner(readers)

    def notice_and_drain() -> None:
        for _ in range(2000):
            owner.noticed()
            owner.job.drained()

    threads = [threading.Thread(target=notice_and_drain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert owner.wait_until_read(8000)
    assert not owner.overlapped


def test_a_client_without_room_is_read_for_once_it_has_drained(readers: Readers) -> None:
    owner = Owner(readers)
    owner.client.room = False

    owner.noticed()
    owner.client.room = True
    owner.job.drained()

    assert owner.wait_until_read(1)


def test_a_read_is_tried_again_when_the_database_did_not_answer(readers: Readers) -> None:
    answers = iter((False, True))

    def read() -> None:
        if not next(answers):
            raise UnavailableError("the database does not answer")

    owner = Owner(readers, read)
    owner.noticed()

    assert owner.wait_until_read(1)


def test_a_bug_closes_the_socket_and_nothing_is_read_after_it(one_reader: Readers) -> None:
    def broken() -> None:
        raise KeyError("a bug")

    owner = Owner(one_reader, broken)
    owner.noticed()
    _wait_for_all_before(one_reader)
    assert owner.client.closed_with == Close.INTERNAL[0]

    owner.noticed()
    _wait_for_all_before(one_reader)
    assert owner.begun == 1


def test_an_ended_job_reads_nothing(one_reader: Readers) -> None:
    owner = Owner(one_reader)
    owner.job.end()
    owner.noticed()
    _wait_for_all_before(one_reader)

    assert owner.begun == 0


def _wait_for_all_before(one_reader: Readers) -> None:
    last = Owner(one_reader)
    last.noticed()
    assert last.wait_until_read(1)
