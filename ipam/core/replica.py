"""What one peer knows of the ring, and how two peers find out what they tell each other.

A replica is the ring (once there is one), the votes from which the first ring arises, and beside
them what is only good to know: hints of who has how much free, and nicknames. It merges updates,
answers digests, and writes itself down for the disk. Rings of two ids never merge: the other is
noted, with who spoke of it, and both go on.

Anti-entropy is cheap in two steps. A digest sums the ring up in 64 buckets. Where the few buckets
that differ hold many entries, the answer is not the entries but a finer digest of those buckets,
in 64 *slices* each; the other side then sends its entries of the slices that differ, and is sent
ours. So one change lost in a ring of 10,000 entries costs about 1.5 KiB to find and mend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from ipam.core.holes import Hole
from ipam.core.messages import Hint, Update, UpdateCodec
from ipam.core.paxos import Paxos, Vote
from ipam.core.promise import Promise
from ipam.core.ranges import Range, Universe
from ipam.core.ring import MAX_ENTRIES, Entry, Fence, Ring
from weavepy.base import wire
from weavepy.base.digest import item_hash
from weavepy.base.errors import ProtocolError
from weavepy.base.names import MAX_PEERS, PeerName

RING_ID_BYTES = 8

MAX_ENTRIES_PER_UPDATE = 4096
"""About 64 KiB: a quarter of what a control frame may hold."""

_FINE_FROM_ENTRIES = 48
"""Entries in differing buckets above which a finer digest is cheaper than the entries."""

_FINE_BUCKETS = 6
"""More buckets than this differ because much is missing: then the entries go at once."""

_SLICES = 64
_SLICE_HASH_BYTES = 4
_MAX_FOREIGN = 64


@dataclass(slots=True)
class Learnt:
    """What a merge taught us."""

    entries: list[Entry] = field(default_factory=list)
    gone: list[Entry] = field(default_factory=list)
    """What they replaced and absorbed."""
    lost: list[Entry] = field(default_factory=list)
    """Entries that were ours and that somebody else rewrote."""
    gained: list[Entry] = field(default_factory=list)
    """Entries that are ours."""
    received: list[Entry] = field(default_factory=list)
    """Those of them that were not ours before, as far as we knew."""
    ring_adopted: bool = False
    foreign_ring: bool = False
    hints: dict[PeerName, Hint] = field(default_factory=dict)
    votes: dict[PeerName, Vote] = field(default_factory=dict)
    fences: dict[PeerName, Fence] = field(default_factory=dict)
    taken: list[Entry] = field(default_factory=list)
    """Entries that were ours until we were fenced."""

    def __bool__(self) -> bool:
        return bool(self.entries or self.hints or self.votes or self.fences)


class _Snapshot(msgspec.Struct):
    """How a replica looks on disk. New members get defaults; `format` grows if they cannot."""

    format: int
    generation: int
    update: bytes
    promises: dict[str, Promise] = {}
    holes: list[tuple[int, int, int, int]] = []
    """Offset, size, epoch, level."""


_snapshot_decoder = wire.Decoder(_Snapshot, "stored ring")
_SNAPSHOT_FORMAT = 1


class Replica:
    def __init__(self, ourself: PeerName, nickname: str, universe: Universe, quorum: int) -> None:
        self.ourself = ourself
        self.universe = universe
        self.codec = UpdateCodec(universe)
        self.ring: Ring | None = None
        self.paxos = Paxos(ourself, quorum)
        self.hints: dict[PeerName, Hint] = {}
        self.nicknames: dict[PeerName, str] = {ourself: nickname}
        self.foreign: dict[PeerName, str] = {}
        """Peers that live with another ring than ours, and which."""
        self.generation = 1
        """Counts our starts, as far as our disk knows; goes into each entry that we write."""
        self.promises: dict[PeerName, Promise] = {}
        """What we have promised to those who take a dead peer's ranges over."""
        self.avoid: Collection[PeerName] = ()
        """Peers whose ranges may be another's already, as far as we have promised."""

    # --- for the disk ----------------------------------------------------------------------

    def snapshot(self) -> bytes:
        update = Update(
            ring_id=self.ring.ring_id if self.ring else b"",
            entries=self.ring.entries() if self.ring else (),
            hints=self.hints,
            votes=self.paxos.votes,
            nicknames=self.nicknames,
            fences=self.fences,
        )
        promises = {str(peer): promise for peer, promise in self.promises.items()}
        first = self.universe.first
        holes = [
            (hole.range.start - first, hole.range.size, hole.epoch, hole.level)
            for hole in (self.ring.holes.all() if self.ring else ())
        ]
        encoded = self.codec.encode(update)
        return wire.encode(_Snapshot(_SNAPSHOT_FORMAT, self.generation, encoded, promises, holes))

    def restore(self, data: bytes) -> None:
        """Take up what `snapshot` wrote, as the next generation. Raises `ProtocolError`."""
        snapshot = _decode_snapshot(data)
        update = self.codec.decode(snapshot.update)
        if update.ring_id:
            self.ring = Ring(update.ring_id, self.universe)
            self.ring.join_fences(update.fences)
            self.ring.join(update.entries)
            for offset, size, epoch, level in snapshot.holes:
                start = self.universe.first + offset
                self.ring.holes.add(Hole(Range(start, start + size), epoch, level))
        self.promises = {PeerName(peer): one for peer, one in snapshot.promises.items()}
        self.paxos.join(update.votes)
        self.hints.update(update.hints)
        self.nicknames = {**update.nicknames, **self.nicknames}
        self.generation = snapshot.generation + 1

    def update_of(self, snapshot: bytes) -> bytes:
        """Return the encoded ring in what `snapshot` wrote. Raises `ProtocolError`."""
        return _decode_snapshot(snapshot).update

    # --- queries ---------------------------------------------------------------------------

    @property
    def fences(self) -> Mapping[PeerName, Fence]:
        return self.ring.fences() if self.ring is not None else {}

    def label(self, peer: PeerName) -> str:
        """Return how operators know this peer."""
        return self.nicknames.get(peer) or peer

    def donors(self, bounds: Range) -> dict[PeerName, int]:
        """Return who else owns addresses inside `bounds`, with how many it may have free."""
        assert self.ring is not None
        owned: dict[PeerName, int] = {}
        for entry in self.ring.live():
            if entry.owner == self.ourself or entry.owner in self.avoid or entry.disputed:
                continue
            for piece in self.universe.unroll(entry.token, entry.size):
                common = piece.meet(bounds)
                if common is not None:
                    owned[entry.owner] = owned.get(entry.owner, 0) + common.size
        return {
            peer: min(size, self.hints[peer].free) if peer in self.hints else size
            for peer, size in owned.items()
        }

    # --- the channel -----------------------------------------------------------------------

    def digest(self) -> bytes:
        if self.ring is None:
            votes = Update(votes=dict(sorted(self.paxos.votes.items())))
            return b"V" + item_hash(self.codec.encode(votes)).to_bytes(8, "big")
        return b"R" + self.ring.ring_id.ljust(RING_ID_BYTES, b"\0") + self.ring.digest()

    def answer(self, digest: bytes) -> bytes | None:
        if digest == self.digest():
            return None
        if self.ring is None:
            return self.codec.encode(self._update(votes=self.paxos.votes))
        head = b"R" + self.ring.ring_id.ljust(RING_ID_BYTES, b"\0")
        if digest.startswith(b"R") and not digest.startswith(head):
            return self.codec.encode(self._update())
        differing = self.ring.differing(digest[len(head) :] if digest.startswith(head) else b"")
        entries = [self.ring.in_bucket(bucket) for bucket in differing]
        count = sum(map(len, entries))
        if len(differing) <= _FINE_BUCKETS and count > _FINE_FROM_ENTRIES:
            slices = {bucket: self._slices(bucket) for bucket in differing}
            update = Update(ring_id=self.ring.ring_id, slices=slices, fences=self.fences)
            return self.codec.encode(update)
        chosen: list[Entry] = []
        for bucket in entries:
            if chosen and len(chosen) + len(bucket) > MAX_ENTRIES_PER_UPDATE:
                break
            chosen += bucket
        return self.codec.encode(self._update(chosen, more=len(chosen) < count))

    def compare_slices(self, update: Update) -> tuple[list[tuple[int, int]], list[Entry]]:
        """Return the slices in which a fine digest differs from ours, and our entries there."""
        if self.ring is None or update.ring_id != self.ring.ring_id:
            return [], []
        differing: list[tuple[int, int]] = []
        for bucket, theirs in update.slices.items():
            if not 0 <= bucket < _SLICES or len(theirs) != _SLICES * _SLICE_HASH_BYTES:
                continue
            mine = self._slices(bucket)
            for at in range(_SLICES):
                piece = slice(at * _SLICE_HASH_BYTES, (at + 1) * _SLICE_HASH_BYTES)
                if mine[piece] != theirs[piece]:
                    differing.append((bucket, at))
        return differing, self.in_slices(differing)

    def in_slices(self, wanted: Iterable[tuple[int, int]]) -> list[Entry]:
        if self.ring is None:
            return []
        slices = dict.fromkeys(wanted)
        buckets = dict.fromkeys(bucket for bucket, _ in slices if 0 <= bucket < _SLICES)
        return [
            entry
            for bucket in buckets
            for entry in self.ring.in_bucket(bucket)
            if (bucket, _slice_of(entry)) in slices
        ][:MAX_ENTRIES_PER_UPDATE]

    def encode_news(self, learnt: Learnt) -> Iterator[bytes]:
        """Yield updates that say what a merge taught us, each of bounded size."""
        first = self._update(
            learnt.entries[:MAX_ENTRIES_PER_UPDATE], hints=learnt.hints, votes=learnt.votes
        )
        yield self.codec.encode(first)
        for at in range(MAX_ENTRIES_PER_UPDATE, len(learnt.entries), MAX_ENTRIES_PER_UPDATE):
            yield self.codec.encode(self._update(learnt.entries[at : at + MAX_ENTRIES_PER_UPDATE]))

    def encode_entries(self, entries: Sequence[Entry]) -> bytes:
        return self.codec.encode(self._update(entries))

    def encode_votes(self, votes: Mapping[PeerName, Vote]) -> bytes:
        return self.codec.encode(Update(votes=votes))

    def encode_repair(self, entries: Sequence[Entry]) -> bytes:
        """Encode entries alone: who lacks one of ten thousand knows the nicknames."""
        assert self.ring is not None
        update = Update(ring_id=self.ring.ring_id, entries=entries, fences=self.fences)
        return self.codec.encode(update)

    # --- merging ---------------------------------------------------------------------------

    def merge(self, source: PeerName, update: Update) -> Learnt:
        """Join what a peer said into what we know. Total."""
        learnt = Learnt()
        self._merge_nicknames(update)
        if self.ring is None:
            learnt.votes = self.paxos.join(update.votes)
            if update.ring_id and update.entries:
                self.ring = Ring(update.ring_id, self.universe)
                learnt.ring_adopted = True
        if self.ring is None:
            return learnt
        if update.ring_id and update.ring_id != self.ring.ring_id:
            learnt.foreign_ring = self._note_foreign(source, f"ring {update.ring_id.hex()}")
            return learnt
        if update.ring_id:
            self.foreign.pop(source, None)
        learnt.fences = self.ring.join_fences(update.fences)
        self._merge_entries(update.entries, learnt)
        for peer, hint in update.hints.items():
            known = self.hints.get(peer)
            if peer != self.ourself and (known is None or hint.stamp > known.stamp):
                if known is None and len(self.hints) >= MAX_PEERS:
                    continue
                self.hints[peer] = learnt.hints[peer] = hint
        return learnt

    def note_foreign_universe(self, source: PeerName, universe: str) -> bool:
        """Returns True if this is news."""
        return self._note_foreign(source, f"range {universe}")

    def _merge_entries(self, entries: Iterable[Entry], learnt: Learnt) -> None:
        assert self.ring is not None
        fence = self.ring.fences().get(self.ourself)
        for entry in entries:
            before = self.ring.get(entry.token)
            covering = before or self.ring.covering(entry.token)
            owner_before = covering.owner if covering is not None else None
            if before is None and len(self.ring) >= MAX_ENTRIES:
                continue
            gone = self.ring.take(entry)
            if gone is None:
                continue
            news = self.ring.get(entry.token)
            assert news is not None
            learnt.entries.append(news)
            learnt.gone += gone
            ours = [one for one in gone if one.owner == self.ourself]
            if ours:
                fenced = fence is not None and all(one.epoch < fence.epoch for one in ours)
                (learnt.taken if fenced else learnt.lost).append(news)
            if news.owner == self.ourself:
                learnt.gained.append(news)
                if owner_before != self.ourself and not learnt.ring_adopted:
                    learnt.received.append(news)

    def _merge_nicknames(self, update: Update) -> None:
        for peer, nickname in update.nicknames.items():
            if peer == self.ourself:
                continue
            if peer in self.nicknames or len(self.nicknames) < MAX_PEERS:
                self.nicknames[peer] = nickname

    def _note_foreign(self, source: PeerName, what: str) -> bool:
        if self.foreign.get(source) == what or len(self.foreign) >= _MAX_FOREIGN:
            return False
        self.foreign[source] = what
        return True

    def _update(
        self,
        entries: Sequence[Entry] = (),
        *,
        hints: dict[PeerName, Hint] | None = None,
        votes: Mapping[PeerName, Vote] | None = None,
        more: bool = False,
    ) -> Update:
        return Update(
            ring_id=self.ring.ring_id if self.ring else b"",
            entries=entries,
            hints=hints or {},
            votes=votes or {},
            nicknames=self.nicknames,
            fences=self.fences,
            more=more,
        )

    def _slices(self, bucket: int) -> bytes:
        assert self.ring is not None
        sums = [0] * _SLICES
        for entry in self.ring.in_bucket(bucket):
            item = hashlib.blake2b(entry.key + entry.item(), digest_size=_SLICE_HASH_BYTES)
            sums[_slice_of(entry)] ^= int.from_bytes(item.digest(), "big")
        return b"".join(piece.to_bytes(_SLICE_HASH_BYTES, "big") for piece in sums)


def _decode_snapshot(data: bytes) -> _Snapshot:
    snapshot: _Snapshot = _snapshot_decoder.decode(data)
    if snapshot.format != _SNAPSHOT_FORMAT:
        raise ProtocolError(f"stored ring has format {snapshot.format}")
    return snapshot


def _slice_of(entry: Entry) -> int:
    # A hash of its own: the bucket has used up the first byte of the other.
    digest = hashlib.blake2b(entry.key, digest_size=2).digest()
    return digest[1] % _SLICES
