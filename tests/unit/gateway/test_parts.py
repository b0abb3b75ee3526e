"""A half-written message: what a client has of it is always a prefix of what was written, each piece once."""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from api.gateway.parts import HELD_DELTAS, PartFrame, Parts, State

FIRST = (1, 1)


def delta(index: int, message_id: tuple[int, ...] = FIRST, part: int = 0) -> PartFrame:
    return PartFrame(message_id, (part, "text"), index, b"delta")


def partial(following: int, message_id: tuple[int, ...] = FIRST, part: int = 0) -> PartFrame:
    return PartFrame(message_id, (part, "text"), following, b"partial")


def current() -> Parts:
    parts = Parts()
    parts.begin_fetch()
    assert parts.fetched([]) == []
    return parts


class Reader(RuleBasedStateMachine):
    """Redis keeps the text so far and publishes each delta; the way to the client loses some."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = Parts()
        self.written = 0
        self.shown = 0
        self.on_the_way: list[PartFrame] = []
        self.fetched: int | None = None

    @rule()
    def write(self) -> None:
        self.on_the_way.append(delta(self.written))
        self.written += 1

    @precondition(lambda self: self.on_the_way)
    @rule()
    def arrive(self) -> None:
        frame = self.on_the_way.pop(0)
        if self.parts.delta(frame):
            self.show(frame)

    @precondition(lambda self: self.on_the_way)
    @rule()
    def lose(self) -> None:
        self.on_the_way.pop(0)

    @rule()
    def no_room(self) -> None:
        self.parts.lost()

    @precondition(lambda self: self.parts.wanted and self.fetched is None)
    @rule()
    def fetch_begins(self) -> None:
        self.parts.begin_fetch()
        self.fetched = -1

    @precondition(lambda self: self.fetched == -1)
    @rule()
    def redis_answers(self) -> None:
        self.fetched = self.written

    @precondition(lambda self: self.fetched == -1)
    @rule()
    def redis_fails(self) -> None:
        self.fetched = None
        self.parts.fetch_failed()

    @precondition(lambda self: self.fetched is not None and self.fetched >= 0)
    @rule()
    def fetch_ends(self) -> None:
        assert self.fetched is not None
        found = [partial(self.fetched)] if self.fetched else []
        self.fetched = None
        for frame in self.parts.fetched(found):
            self.show(frame)

    def show(self, frame: PartFrame) -> None:
        if frame.data == b"partial":
            self.shown = frame.index
        else:
            assert frame.index == self.shown, "a piece is missing, or comes twice"
            self.shown += 1
        assert self.shown <= self.written

    def teardown(self) -> None:
        """When nothing more is lost, the next delta brings the client up to date."""
        if self.fetched is not None:
            self.fetched = self.written
            self.fetch_ends()
        while self.on_the_way:
            self.arrive()
        self.write()
        self.arrive()
        if self.parts.wanted:
            self.fetch_begins()
            self.redis_answers()
            self.fetch_ends()
        assert self.shown == self.written


TestReader = Reader.TestCase
TestReader.settings = hypothesis_settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_a_late_joiner_gets_the_text_so_far_and_then_deltas_from_next() -> None:
    parts = Parts()
    parts.begin_fetch()
    assert not parts.delta(delta(1))  # it is in the partial already
    assert not parts.delta(delta(2))
    assert [frame.index for frame in parts.fetched([partial(2)])] == [2, 2]
    assert parts.delta(delta(3))


def test_a_missing_delta_silences_the_part_until_a_fresh_partial() -> None:
    parts = current()
    assert parts.delta(delta(0))
    assert not parts.delta(delta(2))
    assert not parts.delta(delta(3))
    assert parts.wanted
    parts.begin_fetch()
    assert parts.fetched([partial(4)]) == [partial(4)]
    assert parts.delta(delta(4))


def test_a_higher_try_voids_the_lower_one() -> None:
    parts = current()
    assert parts.delta(delta(0))
    assert parts.delta(delta(0, (1, 2)))
    assert not parts.delta(delta(1))
    assert parts.delta(delta(1, (1, 2)))


def test_tries_are_compared_as_numbers() -> None:
    parts = current()
    assert parts.delta(delta(0, (9, 1)))
    assert parts.delta(delta(0, (10, 1)))


def test_only_the_newest_message_of_what_redis_kept_is_shown() -> None:
    parts = Parts()
    parts.begin_fetch()
    assert parts.fetched([partial(7, (1, 2)), partial(3, (1, 1)), partial(1, (1, 2), part=1)]) == [
        partial(7, (1, 2)),
        partial(1, (1, 2), part=1),
    ]


def test_the_durable_message_voids_what_was_written_of_it() -> None:
    parts = current()
    assert parts.delta(delta(0))
    parts.event("message", FIRST)
    assert not parts.delta(delta(1))
    parts.lost()
    parts.begin_fetch()
    assert parts.fetched([partial(2)]) == []
    assert parts.delta(delta(0, (2, 1)))


def test_a_message_of_the_user_voids_nothing() -> None:
    parts = current()
    assert parts.delta(delta(0))
    parts.event("message", None)
    assert parts.delta(delta(1))


def test_a_resumed_or_ended_task_voids_what_was_half_written() -> None:
    for type_ in ("task_resumed", "completed", "failed", "cancelled"):
        parts = current()
        assert parts.delta(delta(0))
        parts.event(type_, None)
        assert not parts.delta(delta(1))
        assert parts.delta(delta(0, (1, 2)))


def test_what_is_held_while_fetching_is_bounded() -> None:
    parts = Parts()
    parts.begin_fetch()
    for index in range(HELD_DELTAS + 1):
        assert not parts.delta(delta(index))
    assert parts.state is State.STALE
    assert parts.wanted
    assert parts.fetched([partial(HELD_DELTAS)]) == []
