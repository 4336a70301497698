"""What a peer does when others ask it for space: decide, cut, and remember for repeats.

A donation is one write to our own entries. It is on disk before the taker hears of it; if the
answer is lost, the same request gets the same entries again, and gossip carries them anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipam.core.allocator import frozen_text
from ipam.core.messages import AddressRequest, SpaceRequest
from ipam.core.ranges import Range
from ipam.core.replica import Replica
from ipam.core.ring import MAX_ENTRIES, Entry
from ipam.core.space import Space
from weavepy.base.names import PeerName

MAX_REMEMBERED = 256
"""Granted requests that are remembered for repeats; the oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`written` is to be announced; `told` goes to the taker, which may know it already."""

    told: tuple[Entry, ...] = ()
    written: tuple[Entry, ...] = ()
    kind: str = ""
    error: str = ""


class Giver:
    def __init__(self, replica: Replica, space: Space) -> None:
        self._replica = replica
        self._space = space
        self._granted: dict[tuple[PeerName, int], tuple[int, ...]] = {}

    def give_space(self, taker: PeerName, request: SpaceRequest) -> Verdict:
        """Give about half of our biggest free block in the wanted range, the upper one."""
        repeated = self._repeat(taker, request.id)
        if repeated is not None:
            return repeated
        universe = self._replica.universe
        start = universe.first + request.offset
        if request.offset + request.size_less_one >= universe.size:
            return Verdict(kind="usage", error="a subnet beyond the end of the universe")
        bounds = Range(start, start + request.size_less_one + 1)
        if self._is_full():
            return Verdict(kind="no-space", error="the ring has too many entries to split more")
        biggest = self._space.biggest_free(bounds)
        if biggest is not None:
            given = (biggest.size + 1) // 2
            return self._give(taker, request.id, Range(biggest.end - given, biggest.end))
        oldest = self._space.oldest_cooling(bounds) if request.pressed else None
        if oldest is None:
            return Verdict(kind="no-space", error="no free address in the wanted range")
        self._space.forget(oldest)
        return self._give(taker, request.id, Range(oldest, oldest + 1))

    def give_address(self, taker: PeerName, request: AddressRequest) -> Verdict:
        """Give exactly one address, if nobody uses it here."""
        repeated = self._repeat(taker, request.id)
        if repeated is not None:
            return repeated
        ring = self._replica.ring
        assert ring is not None
        address = self._replica.universe.first + request.offset
        if address not in self._replica.universe:
            return Verdict(kind="usage", error="an address beyond the end of the universe")
        text = self._replica.universe.text(address)
        row = self._space.row(address)
        if row is not None:
            host = self._replica.label(self._replica.ourself)
            error = f"{text} is in use by container {row.owner} on {host}"
            return Verdict(kind="in-use", error=error)
        if self._space.owns(address) and not self._is_full():
            self._space.forget(address)
            return self._give(taker, request.id, Range(address, address + 1))
        entry = ring.covering(address)
        if entry is None or entry.owner != self._replica.ourself:
            written = None if entry is None else ring.get(entry.token)
            told = () if written is None else (written,)
            return Verdict(told=told, kind="moved", error=f"{text} is not mine any more")
        return Verdict(kind="frozen", error=frozen_text(text))

    def _give(self, taker: PeerName, request: int, piece: Range) -> Verdict:
        ring = self._replica.ring
        assert ring is not None
        written = tuple(
            ring.donate(
                self._replica.ourself, piece.start, piece.size, taker, self._replica.generation
            )
        )
        self._granted[taker, request] = tuple(entry.token for entry in written)
        if len(self._granted) > MAX_REMEMBERED:
            del self._granted[next(iter(self._granted))]
        return Verdict(told=written, written=written)

    def _repeat(self, taker: PeerName, request: int) -> Verdict | None:
        tokens = self._granted.get((taker, request))
        ring = self._replica.ring
        if tokens is None or ring is None:
            return None
        entries = tuple(entry for token in tokens if (entry := ring.get(token)) is not None)
        return Verdict(told=entries)

    def _is_full(self) -> bool:
        ring = self._replica.ring
        return ring is None or len(ring) + 2 > MAX_ENTRIES
