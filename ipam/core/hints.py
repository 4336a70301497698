"""When to tell others how many free addresses we have.

Hints decide whom a peer in want asks first. They need not be right, so they are told seldom: at
most every ten seconds, and only when the last one has become wrong by more than an eighth, or
wrong about there being any at all.
"""

from __future__ import annotations

from ipam.core.messages import Hint
from ipam.core.space import Space

HINT_INTERVAL_S = 10.0

MAX_HINT = 2**62
"""Larger numbers do not fit on the wire; nobody needs to know them exactly."""


class HintTeller:
    def __init__(self, space: Space) -> None:
        self._space = space
        self._not_before = 0.0
        self._told: int | None = None

    def next_at(self) -> float | None:
        """Return when there is something to tell, or None while the last hint will do."""
        return self._not_before if self._is_wrong() else None

    def tell(self, before: Hint | None, now: float) -> Hint | None:
        """Return the hint to tell now, if any; `before` is our last one, from our last run even."""
        if now < self._not_before or not self._is_wrong():
            return None
        self._not_before = now + HINT_INTERVAL_S
        self._told = self._space.free_count
        stamp = 1 if before is None else before.stamp + 1
        return Hint(stamp, min(self._told, MAX_HINT))

    def _is_wrong(self) -> bool:
        free, told = self._space.free_count, self._told
        if told is None or (free == 0) != (told == 0):
            return True
        return abs(free - told) * 8 > told
