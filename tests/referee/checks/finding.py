"""What a check says: what is wrong, and what it counted that is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Finding:
    """`violations`: one sentence each. `counted`: what a fault excuses, by name."""

    violations: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def wrong(self, sentence: str) -> None:
        self.violations.append(sentence)
