"""When to tell others how many free addresses we have.

Hints decide whom a peer in want asks first. They need not be right, so they are told seldom: at
most every ten seconds, and only when the last one has become wrong by more than an eighth; so none
stays wrong about there being any at all. Others' hints are gathered for a second before they are
passed on: where fifty or a thousand peers have something to tell, each would otherwise be a
message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ipam.core.messages import Hint
from ipam.core.space import Space
from weavepy.base.names import PeerName

HINT_INTERVAL_S = 10.0
PASS_ON_AFTER_S = 1.0

PASS_ON_S = 0.005
"""For each peer, where this is longer."""

MAX_HINT = 2**62
"""Larger numbers do not fit on the wire; nobody needs to know them exactly."""


class HintTeller:
    def __init__(self, space: Space) -> None:
        self._space = space
        self._not_before = 0.0
        self._told: int | None = None
        self._heard: dict[PeerName, Hint] = {}
        self._pass_on_at = math.inf

    def next_at(self) -> float | None:
        """Return when there is something to tell or to pass on; None while there is nothing."""
        at = min(self._pass_on_at, self._not_before if self._is_wrong() else math.inf)
        return None if at == math.inf else at

    def hear(self, hints: Mapping[PeerName, Hint], peers: int, now: float) -> None:
        """Keep what others told us and was news, until it is passed on."""
        if hints:
            self._heard.update(hints)
            self._pass_on_at = min(self._pass_on_at, now + max(PASS_ON_AFTER_S, PASS_ON_S * peers))

    def pass_on(self, now: float) -> dict[PeerName, Hint]:
        """Return what was heard, once it is due."""
        if now < self._pass_on_at:
            return {}
        heard, self._heard, self._pass_on_at = self._heard, {}, math.inf
        return heard

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
        return told is None or abs(free - told) * 8 > told
