"""The ring: who owns which addresses, as a state that any two peers can join.

The universe is a circle of addresses, cut by *tokens*. The entry at a token says who owns the
addresses from there on, and how many they are. Only the owner of an entry writes it: it may cut
its range by inserting tokens into it, and it may name another owner (a donation). Each write
raises the entry's version by one, so of two versions of one entry the higher is the later, and
the join of two rings is, token by token, the later entry.

An entry carries its size although the next token shows it too. Updates get lost, and a peer that
heard of its new entry but not of the token behind it would take the range to reach further than
was given. With its size in it every entry is true by itself, whatever else was heard. Where
everything was heard, sizes and tokens agree: the entries tile the circle.

What no honest history brings about is confined, not refused: two entries of one token and one
version that differ become one entry marked *disputed*, by a rule that gives everyone the same
result; ranges that overlap are *contested*. Their owners give nothing out of either.

The *generation* counts the starts of the peer that wrote an entry. A peer that finds an entry of
its own rewritten under a generation which it has not reached is an old copy of itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ipam.core.ranges import Range, Universe, normalise
from weavepy.base.digest import BUCKETS, BucketDigest, bucket_of
from weavepy.base.names import PeerName

MAX_ENTRIES = 65_536
"""A ring that has this many takes no further tokens: owners stop splitting."""

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

    def join(self, other: Entry) -> Entry:
        """Return the later of two entries of one token; see the rule in the file's opening."""
        assert self.token == other.token
        if self.version != other.version:
            return self if self.version > other.version else other
        if self.content == other.content:
            return self if self.disputed else other
        return replace(max(self, other, key=_content), disputed=True)

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
        ).encode()


def _content(entry: Entry) -> tuple[int, str, int]:
    return entry.content


class Ring:
    """Entries by token. `join` takes what others say, `donate` is what an owner does."""

    def __init__(self, ring_id: bytes, universe: Universe) -> None:
        self.ring_id = ring_id
        self.universe = universe
        self._entries: dict[int, Entry] = {}
        self._tokens: list[int] = []
        self._digest = BucketDigest()
        self._buckets: list[dict[int, None]] = [{} for _ in range(BUCKETS)]

    @classmethod
    def divide(cls, ring_id: bytes, universe: Universe, peers: Sequence[PeerName]) -> Ring:
        """Return the first ring: equal shares in the order of names, the same at every peer."""
        assert peers
        ring = cls(ring_id, universe)
        names = sorted(set(peers))[: universe.size]
        share, rest = divmod(universe.size, len(names))
        token = universe.first
        for at, name in enumerate(names):
            size = share + (1 if at < rest else 0)
            ring._put(Entry(token, size, name, version=1, generation=0))
            token += size
        ring.check_tiles()
        return ring

    # --- queries ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._tokens)

    def entries(self) -> list[Entry]:
        return [self._entries[token] for token in self._tokens]

    def get(self, token: int) -> Entry | None:
        return self._entries.get(token)

    def covering(self, address: int) -> Entry | None:
        """Return the entry that the address belongs to, or None where we lack news."""
        if not self._tokens:
            return None
        entry = self._entries[self._tokens[bisect_right(self._tokens, address) - 1]]
        return entry if self.universe.distance(entry.token, address) < entry.size else None

    def owned_by(self, owner: PeerName) -> list[Entry]:
        return [entry for entry in self.entries() if entry.owner == owner]

    def ranges_of(self, owner: PeerName) -> list[Range]:
        return normalise(piece for entry in self.owned_by(owner) for piece in self._unroll(entry))

    def owners(self) -> dict[PeerName, int]:
        """Return how many addresses each owner has; sorted by name."""
        sizes: dict[PeerName, int] = {}
        for entry in self._entries.values():
            sizes[entry.owner] = sizes.get(entry.owner, 0) + entry.size
        return dict(sorted(sizes.items()))

    def contested(self) -> list[Range]:
        """Return ranges that two entries cover, or whose entry is disputed.

        Entries that overlap for want of news count too, until the news comes.
        """
        disputed = [p for e in self.entries() if e.disputed for p in self._unroll(e)]
        doubled: list[Range] = []
        reach = self.universe.first
        for piece in sorted(piece for entry in self.entries() for piece in self._unroll(entry)):
            if piece.start < reach:
                doubled.append(Range(piece.start, min(piece.end, reach)))
            reach = max(reach, piece.end)
        return normalise(disputed + doubled)

    # --- changes ---------------------------------------------------------------------------

    def join(self, entries: Iterable[Entry]) -> list[Entry]:
        """Join received entries into ours and return those that are news to us.

        Total, idempotent, commutative, associative: the state after any number of joins
        depends only on the set of entries received.
        """
        news: list[Entry] = []
        for entry in entries:
            mine = self._entries.get(entry.token)
            joined = entry if mine is None else mine.join(entry)
            if joined != mine:
                self._put(joined)
                news.append(joined)
        return news

    def donate(
        self, giver: PeerName, start: int, size: int, taker: PeerName, generation: int
    ) -> list[Entry]:
        """Name `taker` the owner of these addresses, which all must be `giver`'s.

        Returns the entries that this wrote. The giver calls it, nobody else.
        """
        written: list[Entry] = []
        while size > 0:
            entry = self.covering(start)
            assert entry is not None, "what is donated lies in a gap of the ring"
            assert entry.owner == giver, "only the owner of a range may donate it"
            assert not entry.disputed, "a disputed range cannot be donated"
            head = self.universe.distance(entry.token, start)
            given = min(size, entry.size - head)
            tail = entry.size - head - given
            if head:
                written.append(self._write(entry.token, head, giver, generation))
            written.append(self._write(start, given, taker, generation))
            start = self.universe.wrap(start + given)
            if tail:
                written.append(self._write(start, tail, giver, generation))
            size -= given
        self._check_around(written)
        return written

    def _write(self, token: int, size: int, owner: PeerName, generation: int) -> Entry:
        before = self._entries.get(token)
        version = 1 if before is None else before.version + 1
        entry = Entry(token, size, owner, version, generation)
        self._put(entry)
        return entry

    def _put(self, entry: Entry) -> None:
        before = self._entries.get(entry.token)
        if before is None:
            insort(self._tokens, entry.token)
            self._buckets[bucket_of(entry.key)][entry.token] = None
        else:
            self._digest.toggle(before.key, before.item())
        self._entries[entry.token] = entry
        self._digest.toggle(entry.key, entry.item())

    # --- comparing with another ring -------------------------------------------------------

    def digest(self) -> bytes:
        return self._digest.encode()

    def differing(self, digest: bytes) -> list[int]:
        """Return the buckets in which a received digest differs from ours."""
        return sorted(self._digest.differing(digest))

    def in_bucket(self, bucket: int) -> list[Entry]:
        return [self._entries[token] for token in sorted(self._buckets[bucket])]

    # --- what must hold --------------------------------------------------------------------

    def gaps(self) -> int:
        """Return how many addresses no entry covers: news that we still lack."""
        covered = normalise(piece for entry in self.entries() for piece in self._unroll(entry))
        return self.universe.size - sum(piece.size for piece in covered)

    def check_tiles(self) -> None:
        """Assert that the entries tile the universe: no gap, no overlap."""
        assert self._tokens, "a ring has at least one entry"
        for at, token in enumerate(self._tokens):
            entry = self._entries[token]
            following = self._tokens[(at + 1) % len(self._tokens)]
            reach = self.universe.distance(token, following) or self.universe.size
            assert entry.size == reach, f"{entry} does not reach the next token {following}"

    def _check_around(self, written: Sequence[Entry]) -> None:
        """Assert that what was just written meets its neighbours, at the cost of a few steps."""
        for entry in written:
            at = bisect_left(self._tokens, entry.token)
            following = self._tokens[(at + 1) % len(self._tokens)]
            reach = self.universe.distance(entry.token, following) or self.universe.size
            assert entry.size <= reach, f"{entry} overlaps the entry at {following}"

    def _unroll(self, entry: Entry) -> tuple[Range, ...]:
        return self.universe.unroll(entry.token, entry.size)
