"""A figure, its floor, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """Samples of `ours` and `floor` in `unit`, from one run.

    `target` bounds the ratio of their medians (`<= 0.5`), or the median of ours itself (`<= 16 MB`).
    """

    name: str
    what: str
    floor_is: str
    unit: str
    ours: Sequence[float]
    floor: Sequence[float]
    target: str = ""

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.floor)

    @property
    def met(self) -> bool | None:
        """Whether the target holds; None where there is none. Raises ValueError for a target that is none."""
        if not self.target:
            return None
        sign, bound, *unit = self.target.split()
        if sign not in {"<=", ">="} or unit not in ([], [self.unit]):
            raise ValueError(
                f"{self.name}: {self.target!r} bounds neither the ratio nor {self.unit or 'a bare number'}"
            )
        value = statistics.median(self.ours) if unit else self.ratio
        return value >= float(bound) if sign == ">=" else value <= float(bound)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "floor_is": self.floor_is,
            "unit": self.unit,
            "median": round(statistics.median(self.ours), 3),
            "floor_median": round(statistics.median(self.floor), 3),
            "ratio": round(self.ratio, 3),
            "target": self.target,
            "met": self.met,
            "samples": [round(value, 3) for value in self.ours],
            "floor_samples": [round(value, 3) for value in self.floor],
        }

    def as_text(self) -> str:
        verdict = {True: "met", False: "NOT met", None: "no target"}[self.met]
        spread = f"{min(self.ours):.2f} … {max(self.ours):.2f}"
        floor_spread = f"{min(self.floor):.2f} … {max(self.floor):.2f}"
        return (
            f"{self.name}: {self.what}\n"
            f"  ours   {statistics.median(self.ours):10.2f} {self.unit}   ({spread}, n={len(self.ours)})\n"
            f"  floor  {statistics.median(self.floor):10.2f} {self.unit}   ({floor_spread}, n={len(self.floor)})\n"
            f"         the floor is: {self.floor_is}\n"
            f"  ratio  {self.ratio:10.2f}   target {self.target or '-'}: {verdict}\n"
        )
