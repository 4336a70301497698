"""What the ring is made of: entries, which say who owns which addresses, and fences.

`ipam.core.ring` teaches what they mean together; here is which of two wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipam.core.ranges import Universe
from weavepy.base.names import PeerName

_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Entry:
    token: int
    size: int
    owner: PeerName
    version: int
    generation: int
    """Of the peer that wrote it; 0 for the first ring, which nobody wrote alone."""
    disputed: bool = False
    epoch: int = 0
    """Of the fence under which it was written; 0 if its range never was a dead peer's."""
    level: int = 0
    """How often addresses of it were merged with their neighbours, at most."""

    def join(self, other: Entry) -> Entry:
        """Return the later of two entries of one token; see the rule in the ring's opening."""
        assert self.token == other.token
        if self.age != other.age:
            return self if self.age > other.age else other
        if self.content == other.content:
            return self if self.disputed else other
        return replace(max(self, other, key=_content), disputed=True)

    def absorbs(self, other: Entry, universe: Universe) -> bool:
        """True if `other` was merged into this one, or is older than what was."""
        return (
            self.level > other.level
            and self.epoch >= other.epoch
            and self.token != other.token
            and universe.distance(self.token, other.token) < self.size
        )

    @property
    def age(self) -> tuple[int, int, int]:
        return (self.epoch, self.level, self.version)

    @property
    def content(self) -> tuple[int, str, int]:
        return (self.generation, self.owner, self.size)

    @property
    def key(self) -> bytes:
        return self.token.to_bytes(_KEY_BYTES, "big")

    def item(self) -> bytes:
        """Everything but the token, for digests."""
        return (
            f"{self.size} {self.owner} {self.version} {self.generation} {self.disputed}"
            f" {self.epoch} {self.level}"
        ).encode()


def _content(entry: Entry) -> tuple[int, str, int]:
    return entry.content


@dataclass(frozen=True, order=True, slots=True)
class Fence:
    """What the fenced peer had in lower epochs is the taker's. The later of two is the greater."""

    epoch: int
    taker: PeerName


def fence_item(peer: PeerName, fence: Fence) -> tuple[bytes, bytes]:
    """Return what stands for a fence in digests."""
    return f"fence {peer}".encode(), f"{fence.epoch} {fence.taker}".encode()
