"""What merged entries left uncovered when they went, and what must not get in there.

A peer that hears of the first part of a merged entry that was cut, and not yet of the second,
knows no owner of the rest. But it knows that the rest was merged once: what is of a lower level
is older, and would name an owner who gave it away long ago, perhaps this very peer. So the rest is
a *hole*, which refuses such entries until a current one fills it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ipam.core.entry import Entry
from ipam.core.ranges import Range, Universe, normalise, subtract

MAX_HOLES = 1024
"""Honest peers leave a few, for moments. The oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class Hole:
    range: Range
    epoch: int
    level: int


class Holes:
    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._holes: list[Hole] = []

    def __len__(self) -> int:
        return len(self._holes)

    def all(self) -> list[Hole]:
        return list(self._holes)

    def add(self, hole: Hole) -> None:
        self._holes.append(hole)
        del self._holes[:-MAX_HOLES]

    def refuse(self, entry: Entry) -> bool:
        """True if a hole shows that this entry is older than what was merged there."""
        return any(
            hole.level > entry.level
            and hole.epoch >= entry.epoch
            and any(hole.range.meet(piece) for piece in self._unroll(entry))
            for hole in self._holes
        )

    def leave(self, gone: Entry, around: Iterable[Entry]) -> None:
        """A merged entry has gone; `around` are those that may cover part of what it covered."""
        covered = [piece for one in around if _fills(one, gone) for piece in self._unroll(one)]
        for piece in subtract(normalise(self._unroll(gone)), normalise(covered)):
            self.add(Hole(piece, gone.epoch, gone.level))

    def fill(self, entry: Entry) -> None:
        """An entry has come."""
        pieces = normalise(self._unroll(entry))
        self._holes = [
            replace(hole, range=rest)
            for hole in self._holes
            for rest in (subtract([hole.range], pieces) if _fills(entry, hole) else [hole.range])
        ]

    def _unroll(self, entry: Entry) -> tuple[Range, ...]:
        return self._universe.unroll(entry.token, entry.size)


def _fills(entry: Entry, hole: Hole | Entry) -> bool:
    return (entry.epoch, entry.level) >= (hole.epoch, hole.level)
