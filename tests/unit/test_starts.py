"""The line of attempts that wait for their start: who gets in, and what leaving does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.starts import Starts, Turn

DEADLINE_S = 30.0


def test_who_comes_first_starts_first() -> None:
    line = Starts(2)
    first, second, third, fourth = (line.line_up() for _ in range(4))
    assert [turn.inside for turn in (first, second, third, fourth)] == [True, True, False, False]
    second.leave()
    assert third.inside
    assert not fourth.inside
    assert third.wait()
    third.leave()


def test_who_leaves_while_waiting_never_gets_in_and_takes_nobodys_place() -> None:
    line = Starts(1)
    first, second, third = (line.line_up() for _ in range(3))
    second.leave()
    assert not second.wait()
    first.leave()
    assert third.inside
    assert not second.inside


def test_leaving_twice_gives_one_place() -> None:
    line = Starts(1)
    first, second, third = (line.line_up() for _ in range(3))
    for _ in range(3):
        first.leave()
    assert second.inside
    assert not third.inside


def test_a_start_that_takes_long_gives_its_place_away() -> None:
    line = Starts(1, place=0.01)
    slow, next_one = line.line_up(), line.line_up()
    assert slow.wait()
    assert next_one.decided.wait(DEADLINE_S)
    assert next_one.inside
    assert slow.left


@given(st.integers(1, 4), st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=60))
def test_never_more_than_the_limit_are_inside_and_nobody_waits_beside_a_free_place(
    limit: int, moves: list[int | None]
) -> None:
    line = Starts(limit)
    turns: list[Turn] = []
    for move in moves:
        if move is None:
            turns.append(line.line_up())
        elif turns:
            turns[move % len(turns)].leave()
        inside = [turn for turn in turns if turn.inside and not turn.left]
        waiting = [turn for turn in turns if not turn.inside and not turn.left]
        assert len(inside) <= limit
        assert not waiting or len(inside) == limit
        assert turns.index(waiting[0]) > turns.index(inside[-1]) if waiting else True
