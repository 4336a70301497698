"""What a host keeps through the death of its processes: the store, and the remembered targets.

The store is the contract of `ipam.shell.store`: a `Persist` is whole and synced when it returns,
or it raises and nothing of it is there. A crash in its middle leaves the old or the new. Copies of
older states are kept now and then, for a disk that is rolled back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from ipam.core.effects import Persist, PersistedAddress, Saved
from weavepy.base.errors import WeavepyError

KEPT_COPIES = 4
COPY_CHANCE = 0.15


class DiskRefuses(WeavepyError):
    """No space, an I/O error, a file system that went read-only."""


@dataclass(frozen=True)
class Content:
    ring: bytes | None = None
    rows: Mapping[int, PersistedAddress] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    def with_write(self, effect: Persist) -> "Content":
        rows = dict(self.rows)
        for gone in effect.released:
            rows.pop(gone, None)
        for row in effect.allocated:
            rows[row.address] = row
        ring = self.ring if effect.ring is None else effect.ring
        return replace(self, ring=ring, rows=rows)


class Disk:
    def __init__(self, rng: Random) -> None:
        self.content = Content()
        self.refuses = 0
        """How many faults under way make it refuse writes."""
        self.writes = 0
        self._rng = rng
        self._copies: list[Content] = []

    def persist(self, effect: Persist) -> None:
        if self.refuses:
            raise DiskRefuses("no space left on device: free some")
        self.writes += 1
        if self._rng.random() < COPY_CHANCE:
            self._copies = [*self._copies[1 - KEPT_COPIES :], self.content]
        self.content = self.content.with_write(effect)

    def remember(self, targets: tuple[str, ...]) -> None:
        if not self.refuses:
            self.content = replace(self.content, targets=targets)

    def load(self) -> Saved | None:
        """What the real store returns: cooling rows begin to cool anew."""
        content = self.content
        if content.ring is None and not content.rows:
            return None
        rows = sorted(content.rows.values(), key=lambda row: row.address)
        return Saved(
            content.ring,
            tuple(replace(row, freed_at=None if row.freed_at is None else 0.0) for row in rows),
        )

    # --- faults ------------------------------------------------------------------------------

    def roll_back(self) -> None:
        """The database is as it was once; the targets' file is another file."""
        if self._copies:
            older = self._rng.choice(self._copies)
            self.content = replace(older, targets=self.content.targets)

    def lose(self) -> None:
        """The database is gone; identity and targets are other files."""
        self.content = Content(targets=self.content.targets)
        self._copies.clear()
