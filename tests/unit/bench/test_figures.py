"""Whether a target is met, which decides what `farhand bench` exits with."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from tests.bench import __main__ as bench
from tests.bench import demo, peer
from tests.bench.figures import Figure


def figure(*ours: float, target: str, unit: str = "ms") -> Figure:
    """Beside a floor whose median is 10."""
    return Figure("f", "what", "floor", unit, ours, [1.0, 10.0, 400.0], target=target)


@pytest.mark.parametrize(
    ("ours", "target", "met"),
    [
        ((5.0, 99.0, 5.0), "<= 0.5", True),  # of the ratio of medians, the bound included
        ((5.1,), "<= 0.5", False),
        ((7.0,), ">= 0.7", True),
        ((6.9,), ">= 0.7", False),
        ((250.0,), "<= 250 ms", True),  # of ours itself
        ((250.1,), "<= 250 ms", False),
        ((3.0,), ">= 4 ms", False),
        ((1e9,), "", None),
    ],
)
def test_a_target_bounds_the_ratio_or_with_a_unit_the_figure(
    ours: tuple[float, ...], target: str, met: bool | None
) -> None:
    made = figure(*ours, target=target)
    assert made.met is met
    assert made.as_json()["met"] is met
    assert made.as_text().endswith({True: ": met\n", False: ": NOT met\n", None: ": no target\n"}[met])


@pytest.mark.parametrize("target", ["<= 15 s", "< 0.5", "= 3 ms"])
def test_a_target_in_another_unit_or_of_an_unknown_kind_is_a_mistake(target: str) -> None:
    with pytest.raises(ValueError, match="bounds neither"):
        _ = figure(1.0, target=target).met


@pytest.mark.parametrize(("seconds", "code"), [(14.9, 0), (15.1, 1)])
def test_bench_exits_with_1_when_the_demo_takes_too_long(
    seconds: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.BENCHMARKS, "demo", lambda: [demo.figure([seconds] * 5, [1.0] * 5)])
    said = CliRunner().invoke(bench.main, ["demo", "--json"])
    assert said.exit_code == code
    (line,) = said.stdout.splitlines()
    assert (json.loads(line)["target"], json.loads(line)["met"]) == ("<= 15 s", code == 0)


def test_a_part_of_a_benchmark_runs_by_itself_and_is_not_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []

    def noting(name: str) -> Callable[[int], list[Figure]]:
        def measure(tasks: int) -> list[Figure]:
            ran.append((name, tasks))
            return []

        return measure

    monkeypatch.setattr(bench, "BENCHMARKS", {"sandbox": list})
    monkeypatch.setattr(bench, "SIZED", {name: noting(name) for name in bench.SIZED})
    assert CliRunner().invoke(bench.main, ["--tasks", "3"]).exit_code == 0
    assert CliRunner().invoke(bench.main, ["density", "--tasks", "4"]).exit_code == 0
    assert ran == [("sandbox", 3), ("density", 4)]


def test_the_peer_is_measured_by_when_its_steps_were_done() -> None:
    first, rate = peer.figures([[0.1, 0.2, 0.3]], [[1.0, 1.5, 2.0]])
    assert (first.ours, first.floor, first.unit) == ([100.0], [1000.0], "ms")
    assert rate.ours == pytest.approx([10.0])
    assert rate.floor == pytest.approx([2.0])


def test_without_the_peer_the_reason_is_said_and_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peer, "PEER", "./no-such-directory-of-a-package")
    assert peer.run() == []
    assert "no figure beside mini-swe-agent: it can't be installed" in capsys.readouterr().err
