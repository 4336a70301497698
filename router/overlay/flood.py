"""How much of what goes to everyone one source may send, so that others get their turn.

A frame to a group, or to an address that nobody knows, costs as many copies as our broadcast
tree has neighbours. So each source address has a bucket of copies, and all of this host
together have another. They are meant for storms: a loop somewhere, a container that floods. Nobody
else should ever notice them. With one neighbour a source may send 8,000 such frames per second
for ever, which is 90 Mbit/s of full-size multicast; with a hundred neighbours it is 80, and a
burst of as many.

What peers send to everyone is limited again where it arrives: a peer may be of another mind, and
one copy of its frame may become a hundred here. Writing it to our bridge counts as a copy too. A
peer gets more there than a source has, so that what one honest source sends passes whole also
where it is delivered and passed on.
"""

from dataclasses import dataclass

SOURCE_COPIES_PER_S = 8_000.0

HOST_COPIES_PER_S = 16_000.0
"""Twice as much: whoever is alone in flooding leaves half of it to the others."""

PEER_COPIES_PER_S = 20_000.0

PEERS_COPIES_PER_S = 40_000.0
"""All peers together: about a third of what a core manages."""

BURST_S = 1.0
"""So long may a bucket have filled."""

MAX_SOURCES = 1_024
"""That are remembered. The one whose bucket was made first goes, and may begin anew."""


@dataclass(slots=True)
class _Bucket:
    copies: float
    filled_at: float

    def take(self, count: int, rate: float, now: float) -> bool:
        burst = rate * BURST_S
        self.copies = min(burst, self.copies + (now - self.filled_at) * rate)
        self.filled_at = now
        if self.copies < min(count, burst):
            return False
        self.copies -= count
        return True


class FloodLimiter:
    def __init__(self, source_per_s: float, all_per_s: float) -> None:
        self._source_per_s = source_per_s
        self._all_per_s = all_per_s
        self._all = _Bucket(all_per_s * BURST_S, 0.0)
        self._sources: dict[bytes | int, _Bucket] = {}

    def admit(self, source: bytes | int, copies: int, now: float) -> bool:
        """Whether this source may send so many copies now. A frame passes whole or not at all."""
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            bucket = self._sources[source] = _Bucket(self._source_per_s * BURST_S, now)
        if not bucket.take(copies, self._source_per_s, now):
            return False
        return self._all.take(copies, self._all_per_s, now)

    def __len__(self) -> int:
        return len(self._sources)
