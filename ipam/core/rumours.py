"""What others wrote to the ring, passed on the less often the more peers there are.

Each of n peers hears all that is written, some eight times, and while a thousand join somebody
writes all the time. So what comes in calm is passed on at once, and what comes soon after that
waits, and is passed on together. Nobody depends on it: whoever asks a peer for space that is
another's by now is told so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ipam.core.ring import Entry, Ring
from weavepy.base.names import PeerName

SPACING_S = 0.002
"""Between two times that we pass on, for each peer that can be reached."""

MAX_SPACING_S = 2.0


class Rumours:
    def __init__(self) -> None:
        self._tokens: dict[int, None] = {}
        self._sources: dict[PeerName, None] = {}
        self._not_before = -math.inf
        self.next_at = math.inf
        """When what waits is due."""

    def hear(self, source: PeerName, entries: Iterable[Entry], now: float) -> None:
        for entry in entries:
            self._tokens[entry.token] = None
            self._sources[source] = None
        if self._tokens:
            self.next_at = max(now, self._not_before)

    def take(self, ring: Ring, peers: int, now: float) -> tuple[Sequence[Entry], PeerName | None]:
        """Return what to pass on now, as it is by now, and who knows all of it already."""
        if now < self.next_at:
            return (), None
        found = [ring.get(token) for token in self._tokens]
        source = next(iter(self._sources)) if len(self._sources) == 1 else None
        self._tokens.clear()
        self._sources.clear()
        self._not_before = now + min(MAX_SPACING_S, SPACING_S * peers)
        self.next_at = math.inf
        return [entry for entry in found if entry is not None], source
