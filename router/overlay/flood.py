"""How much of what goes to everyone one source may send, so that others get their turn.

A frame to a group, or to an address that nobody knows, costs as many copies as our broadcast
tree has neighbours. So each source address has a bucket of copies, and all of this host
together have another. They are meant for storms: a loop somewhere, a container that floods. Nobody
else should ever notice them. With one neighbour a source may send 8,000 such frames per second
for ever, which is 90 Mbit/s of full-size multicast; with a hundred neighbours it is 80, and a
burst of as many.
"""

from dataclasses import dataclass

SOURCE_COPIES_PER_S = 8_000.0
SOURCE_BURST_COPIES = 8_000.0

HOST_COPIES_PER_S = 16_000.0
HOST_BURST_COPIES = 16_000.0
"""Twice as much: whoever is alone in flooding leaves half of it to the others."""

MAX_SOURCES = 1_024
"""That are remembered. The one whose bucket was made first goes, and may begin anew."""


@dataclass(slots=True)
class _Bucket:
    copies: float
    filled_at: float

    def take(self, count: int, rate: float, burst: float, now: float) -> bool:
        self.copies = min(burst, self.copies + (now - self.filled_at) * rate)
        self.filled_at = now
        if self.copies < min(count, burst):
            return False
        self.copies -= count
        return True


class FloodLimiter:
    def __init__(self) -> None:
        self._host = _Bucket(HOST_BURST_COPIES, 0.0)
        self._sources: dict[bytes, _Bucket] = {}

    def admit(self, source_mac: bytes, copies: int, now: float) -> bool:
        """Whether this source may send so many copies now. A frame passes whole or not at all."""
        bucket = self._sources.get(source_mac)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            bucket = self._sources[source_mac] = _Bucket(SOURCE_BURST_COPIES, now)
        if not bucket.take(copies, SOURCE_COPIES_PER_S, SOURCE_BURST_COPIES, now):
            return False
        return self._host.take(copies, HOST_COPIES_PER_S, HOST_BURST_COPIES, now)

    def __len__(self) -> int:
        return len(self._sources)
