"""A short run of the referee, with a fixed seed: every boundary in one variant, and a handful of faults."""

from __future__ import annotations

import sys

import pytest

from tests.referee.referee import Orders, referee

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_dies() -> None:
    orders = Orders(tasks=6, faults=8, seed=7, lease_ttl=3.0, both=False)
    report = referee(orders, lambda text: print(text, file=sys.stderr))  # noqa: T201  (shown when it fails)
    assert report.violations == [], report.as_text()
    assert all(case.hit for case in report.cases)
