"""When this peer merges neighbouring ranges of its own, which keeps the ring short.

The ring takes care that whoever hears of a merging, and whoever does not yet, agree in the end.
Two things it cannot know. A disk that is too old takes for ours what we gave away, and merging it
would take it back: the merged entry would win over the taker's. And who takes a dead peer's ranges
over writes down what a majority knew; where the dead one has merged with what it got a moment
before, and nobody of them had heard of, the rest would be nobody's. Both need an owner of ranges
who has not heard what we have, or we not what it has. So we merge only what has been ours,
unchanged, while all owners could be reached for so long that neighbours have compared their rings
about three times. An owner that is down for long puts merging off, until it is back or taken over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ipam.core.history import History
from ipam.core.replica import Replica
from ipam.core.ring import Entry
from weavepy.base.names import PeerName

COMPACT_AFTER_S = 30.0
"""How long ranges must have been ours, and all owners reachable. News is told at once; what got
lost is found when neighbours compare their rings, every ten seconds (`router.mesh.gossip`)."""


class Compactor:
    def __init__(self, replica: Replica, history: History) -> None:
        self._replica = replica
        self._history = history
        self._reachable: Mapping[PeerName, None] = {}
        self._ours: dict[Entry, None] = {}
        """What was there to be merged when the wait began."""
        self._is_looking = False
        self._due_at = math.inf

    def handle_peers(self, reachable: Mapping[PeerName, None]) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            self._begin_anew()

    def handle_ranges_changed(self) -> None:
        """What is ours may have changed."""
        self._is_looking = True

    def next_at(self) -> float:
        return self._due_at

    def work(self, may_write: bool, now: float) -> list[Entry]:
        """Return what was merged now; call it whenever something changed or time passed.

        `may_write`: whether our entries may be changed just now; if not, the wait begins anew.
        """
        if not may_write:
            self._begin_anew()
            return []
        if now < self._due_at and not (self._is_looking and self._due_at == math.inf):
            return []
        written = self._merge() if now >= self._due_at else []
        runs = self._runs()
        self._ours = {entry: None for run in runs for entry in run}
        self._due_at = now + COMPACT_AFTER_S if runs else math.inf
        self._is_looking = False
        return written

    def _begin_anew(self) -> None:
        self._due_at = math.inf
        self._is_looking = True

    def _merge(self) -> list[Entry]:
        ring = self._replica.ring
        if ring is None or not self._reaches_all_owners():
            return []
        written: list[Entry] = []
        count = 0
        for run in self._runs():
            for part in self._settled(run):
                written.append(ring.merge(part, self._replica.generation))
                count += len(part)
        if written:
            reason = f"{count} neighbouring entries of this host became {len(written)}"
            self._history.note("merged", (), None, reason)
        return written

    def _reaches_all_owners(self) -> bool:
        ring = self._replica.ring
        assert ring is not None
        return all(peer in self._reachable or peer == self._ourself for peer in ring.owners())

    def _settled(self, run: list[Entry]) -> list[list[Entry]]:
        """Return the parts of a run that were there when the wait began."""
        parts: list[list[Entry]] = [[]]
        for entry in run:
            if entry in self._ours:
                parts[-1].append(entry)
            else:
                parts.append([])
        return [part for part in parts if len(part) > 1]

    def _runs(self) -> list[list[Entry]]:
        ring = self._replica.ring
        return ring.mergeable(self._ourself) if ring is not None else []

    @property
    def _ourself(self) -> PeerName:
        return self._replica.ourself
