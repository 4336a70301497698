"""Leaving the mesh for good: another peer gets everything we own, before we are forgotten.

It is a donation of all our ranges. What is told is repeated until the taker says that it has it
on its disk; only then may ours be erased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ipam.core.history import History
from ipam.core.keeper import RingKeeper
from ipam.core.messages import HandOver
from ipam.core.outbox import Outbox
from ipam.core.ranges import Range, subtract
from ipam.core.replica import MAX_ENTRIES_PER_UPDATE, Replica
from ipam.core.ring import Entry
from weavepy.base.names import PeerName

AGAIN_S = 1.0


class Departure:
    def __init__(
        self, replica: Replica, keeper: RingKeeper, history: History, outbox: Outbox
    ) -> None:
        self._replica = replica
        self._keeper = keeper
        self._history = history
        self._outbox = outbox
        self.heir: PeerName | None = None
        """Who gets everything; None as long as we do not leave."""
        self.done = False
        """Whether the heir has everything on its disk."""
        self.again_at = math.inf
        self._pieces: dict[int, Sequence[Entry]] = {}
        """What is not confirmed yet, by numbers."""

    def begin(self, heir: PeerName, now: float) -> None:
        """The addresses in use here must be forgotten before."""
        self.heir = heir
        ring = self._replica.ring
        ranges = self._ranges()
        if ring is None or not ranges:
            self.done = True
            return
        ourself = self._replica.ourself
        # What a fence has just made ours may not be written down yet, and is handed over as well.
        ring.stamp(ourself, self._replica.generation)
        written: list[Entry] = []
        for piece in ranges:
            written += ring.donate(ourself, piece.start, piece.size, heir, self._replica.generation)
        pieces = range(0, len(written), MAX_ENTRIES_PER_UPDATE)
        self._pieces = {
            number: tuple(written[at : at + MAX_ENTRIES_PER_UPDATE])
            for number, at in enumerate(pieces, 1)
        }
        self.again_at = now
        self._history.note_entries("handed-over", written, heir, "this host leaves (`reset`)")
        self._keeper.wrote(written, now)

    def handle_done(self, source: PeerName, number: int) -> None:
        """A peer has this piece on its disk."""
        if source != self.heir:
            return
        self._pieces.pop(number, None)
        if not self._pieces:
            self.done = True
            self.again_at = math.inf

    def handle_timeout(self, now: float) -> None:
        if self.heir is None or now < self.again_at:
            return
        self.again_at = now + AGAIN_S
        for number, entries in self._pieces.items():
            self._outbox.send(self.heir, HandOver(number, self._replica.encode_entries(entries)))

    def _ranges(self) -> list[Range]:
        ring = self._replica.ring
        if ring is None:
            return []
        return subtract(ring.ranges_of(self._replica.ourself), ring.contested())
