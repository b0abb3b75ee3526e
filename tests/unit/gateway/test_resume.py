"""Every event exactly once and in order, whatever publisher, bus, reader and client do, and in whatever order."""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from api.gateway import resume as module
from api.gateway.resume import Resume, State

AFTER = 3
PAGE = 3


class Subscriber(RuleBasedStateMachine):
    """A log that grows, a bus that loses, repeats and reorders, and reads that take their time."""

    def __init__(self) -> None:
        super().__init__()
        self.resume: Resume[int] = Resume(AFTER)
        self.committed = AFTER
        self.on_the_bus: list[int] = []
        self.seen: list[int] = []
        self.reading_from: int | None = None
        self.page: list[int] | None = None

    @initialize(events=st.integers(0, 10))
    def there_is_a_log(self, events: int) -> None:
        self.committed += events

    @rule(events=st.integers(1, 4), published=st.booleans())
    def commit(self, events: int, published: bool) -> None:
        for _ in range(events):
            self.committed += 1
            if published:
                self.on_the_bus.append(self.committed)

    @precondition(lambda self: self.on_the_bus)
    @rule(data=st.data(), repeat=st.booleans(), size=st.sampled_from([1, module.BUFFER_BYTES // 2, 2**30]))
    def deliver(self, data: st.DataObject, repeat: bool, size: int) -> None:
        position = data.draw(st.integers(0, len(self.on_the_bus) - 1))
        seq = self.on_the_bus[position] if repeat else self.on_the_bus.pop(position)
        self.seen += self.resume.received(seq, seq, size)

    @precondition(lambda self: self.on_the_bus)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.on_the_bus.pop(data.draw(st.integers(0, len(self.on_the_bus) - 1)))

    @rule()
    def acknowledge(self) -> None:
        self.resume.acknowledged()

    @rule()
    def notice(self) -> None:
        self.resume.noticed(self.committed)

    @precondition(lambda self: self.resume.state is State.READING and self.reading_from is None)
    @rule()
    def begin_read(self) -> None:
        self.reading_from = self.resume.begin_read()

    @precondition(lambda self: self.reading_from is not None and self.page is None)
    @rule()
    def postgres_answers(self) -> None:
        assert self.reading_from is not None
        self.page = list(range(self.reading_from + 1, self.committed + 1))[:PAGE]

    @precondition(lambda self: self.page is not None)
    @rule(room=st.integers(0, PAGE))
    def page_arrives(self, room: int) -> None:
        assert self.page is not None
        for seq in self.page[:room]:
            if self.resume.read(seq):
                self.seen.append(seq)
        complete = len(self.page) < PAGE and room >= len(self.page)
        self.seen += self.resume.page_ends(complete=complete)
        self.page = self.reading_from = None

    @invariant()
    def in_order_and_at_most_once(self) -> None:
        assert self.seen == list(range(AFTER + 1, AFTER + 1 + len(self.seen)))
        assert AFTER + len(self.seen) <= self.committed

    @invariant()
    def live_means_that_nothing_known_is_missing(self) -> None:
        if self.resume.state is State.LIVE:
            assert self.resume.position >= self.resume._newest

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.resume._buffer) <= module.BUFFER_EVENTS
        assert self.resume._buffer_bytes <= module.BUFFER_BYTES

    def teardown(self) -> None:
        """At least once: when the world holds still, one comparison with Postgres is enough."""
        if self.page is not None:
            self.page_arrives(PAGE)
        self.reading_from = None
        self.resume.noticed(self.committed)
        for _ in range(self.committed + 2):
            if self.resume.state is not State.READING:
                break
            self.begin_read()
            self.postgres_answers()
            self.page_arrives(PAGE)
        assert self.resume.state is State.LIVE
        assert self.seen == list(range(AFTER + 1, self.committed + 1))


TestSubscriber = Subscriber.TestCase
TestSubscriber.settings = hypothesis_settings(max_examples=300, stateful_step_count=40, deadline=None)


def live_at(position: int) -> Resume[str]:
    resume: Resume[str] = Resume(position)
    resume.acknowledged()
    assert resume.begin_read() == position
    assert resume.page_ends(complete=True) == []
    assert resume.state is State.LIVE
    return resume


def test_before_the_acknowledgement_nothing_is_read() -> None:
    resume: Resume[str] = Resume(0)
    assert resume.received(1, "one", 1) == []
    assert resume.state is State.BUFFERING


def test_the_buffer_is_handed_on_when_the_read_ends() -> None:
    resume: Resume[str] = Resume(0)
    resume.acknowledged()
    assert resume.received(2, "two", 1) == []
    assert resume.begin_read() == 0
    assert resume.read(1)
    assert resume.page_ends(complete=True) == ["two"]
    assert resume.state is State.LIVE


def test_a_hole_sends_it_back_to_the_read() -> None:
    resume = live_at(3)
    assert resume.received(5, "five", 1) == []
    assert resume.state is State.READING
    assert resume.begin_read() == 3
    assert resume.read(4)
    assert resume.page_ends(complete=True) == ["five"]
    assert (resume.state, resume.position) == (State.LIVE, 5)


def test_a_read_that_began_too_early_is_repeated() -> None:
    resume = live_at(3)
    resume.noticed(4)
    assert resume.begin_read() == 3
    assert resume.received(6, "six", 1) == []  # committed after the read's snapshot, as was 5, whose publish is lost
    assert resume.read(4)
    assert resume.page_ends(complete=True) == []
    assert resume.state is State.READING
    assert resume.begin_read() == 4


def test_what_postgres_does_not_have_is_not_waited_for() -> None:
    resume = live_at(3)
    assert resume.received(10**9, "garbage", 1) == []
    assert resume.begin_read() == 3
    assert resume.page_ends(complete=True) == []
    assert resume.state is State.LIVE
    assert resume.received(4, "four", 1) == ["four"]
