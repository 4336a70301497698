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

A *fence* takes a dead peer's ranges away from it and names the one who has them now. Its *epoch*
is higher than any before. Entries of the fenced peer of a lower epoch are the taker's, who writes
them down under its own name in the new epoch. Of two entries of one token the higher epoch wins
before any version, and an entry that lies whole under entries of higher epochs is *shadowed*: it
stays in the ring, so that the join remains a join, but owns nothing. So whatever the dead peer
wrote last, and told nobody who was asked, loses, in whatever order it comes to light. A peer that
was fenced and lives again is given ranges in an epoch that the fence does not reach.

Tokens would only ever get more, so an owner *merges* neighbours that are both its own, and that is
the reason for the *level* of an entry: how often addresses of it were merged. The merged entry
keeps the first token, one level above all that it was made of, and *absorbs* the others: whatever
begins in its range at a lower level, and not in a higher epoch, is removed, and refused if it
comes again. For as the level of an address never declines (cuts and take-overs keep it), such an
entry is older than what the owner knew when it merged. So no peer needs to know who has heard of
the merging, and two that have heard all entries which are current are equal, whatever else they
have heard, in whatever order. Between them, until the current ones have come, they may differ.

In particular, a peer that hears of the first part of a merged entry which was cut, and not of the
second, must not take an old entry for the second: it may be named in it. So what a merged entry
leaves uncovered when it goes is a *hole* of its level, which refuses the same, until it is filled.

The *generation* counts the starts of the peer that wrote an entry. A peer that finds an entry of
its own rewritten under a generation which it has not reached is an old copy of itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from ipam.core.entry import Entry, Fence, fence_item
from ipam.core.holes import Holes
from ipam.core.merged import MergedEntries
from ipam.core.ranges import Range, Universe, normalise, subtract
from weavepy.base.digest import BUCKETS, BucketDigest, bucket_of
from weavepy.base.names import MAX_PEERS, PeerName

MAX_ENTRIES = 65_536
"""A ring that has this many takes no further tokens: owners stop splitting."""

__all__ = ["MAX_ENTRIES", "Entry", "Fence", "Ring"]


class Ring:
    """Entries by token, fences by peer. `join` and `join_fences` take what others say, `donate`
    and `stamp` are what an owner does."""

    def __init__(self, ring_id: bytes, universe: Universe) -> None:
        self.ring_id = ring_id
        self.universe = universe
        self._entries: dict[int, Entry] = {}
        self._tokens: list[int] = []
        self._fences: dict[PeerName, Fence] = {}
        self._per_epoch: dict[int, int] = {}
        self._live: dict[int, Entry] | None = None
        """By token in order, what is not shadowed, with those who own it now. None: not known."""
        self._live_tokens: list[int] = []
        self._sizes: dict[PeerName, int] | None = None
        """What `owners` says; None: not known."""
        self._merged = MergedEntries(universe)
        self.holes = Holes(universe)
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
        """Return all entries as they were written, shadowed ones among them."""
        return [self._entries[token] for token in self._tokens]

    def get(self, token: int) -> Entry | None:
        """Return the entry of this token as it was written."""
        return self._entries.get(token)

    def live(self) -> list[Entry]:
        """Return the entries that own something, each with its owner of today."""
        if self._is_plain():
            return self.entries()
        return list(self._look().values())

    def covering(self, address: int) -> Entry | None:
        """Return the live entry that the address belongs to, or None where we lack news."""
        live: Mapping[int, Entry] = self._entries if self._is_plain() else self._look()
        tokens = self._tokens if self._is_plain() else self._live_tokens
        if not tokens:
            return None
        entry = live[tokens[bisect_right(tokens, address) - 1]]
        return entry if self.universe.distance(entry.token, address) < entry.size else None

    def owned_by(self, owner: PeerName) -> list[Entry]:
        return [entry for entry in self.live() if entry.owner == owner]

    def fences(self) -> Mapping[PeerName, Fence]:
        return self._fences

    def highest_epoch(self) -> int:
        fenced = max((fence.epoch for fence in self._fences.values()), default=0)
        return max(fenced, max(self._per_epoch, default=0))

    def ranges_of(self, owner: PeerName) -> list[Range]:
        return normalise(piece for entry in self.owned_by(owner) for piece in self._unroll(entry))

    def owners(self) -> dict[PeerName, int]:
        """Return how many addresses each owner has; sorted by name."""
        if self._sizes is None:
            sizes: dict[PeerName, int] = {}
            for entry in self.live():
                sizes[entry.owner] = sizes.get(entry.owner, 0) + entry.size
            self._sizes = dict(sorted(sizes.items()))
        return dict(self._sizes)

    def contested(self) -> list[Range]:
        """Return ranges that two entries cover, or whose entry is disputed.

        Entries that overlap for want of news count too, until the news comes.
        """
        live = self.live()
        disputed = [p for e in live if e.disputed for p in self._unroll(e)]
        doubled: list[Range] = []
        reach = self.universe.first
        for piece in sorted(piece for entry in live for piece in self._unroll(entry)):
            if piece.start < reach:
                doubled.append(Range(piece.start, min(piece.end, reach)))
            reach = max(reach, piece.end)
        return normalise(disputed + doubled)

    # --- changes ---------------------------------------------------------------------------

    def join(self, entries: Iterable[Entry]) -> list[Entry]:
        """Join received entries into ours and return those that are news to us.

        Total and idempotent. Without merged entries also commutative and associative: the state
        depends only on the set of entries received. With them that holds as soon as all entries
        that are current are among those.
        """
        news: list[Entry] = []
        for entry in entries:
            if self.take(entry) is not None:
                news.append(self._entries[entry.token])
        return news

    def take(self, entry: Entry) -> list[Entry] | None:
        """Join one entry; return what it replaced and absorbed, or None if it is no news."""
        mine = self._entries.get(entry.token)
        joined = entry if mine is None else mine.join(entry)
        if joined == mine or self._merged.absorb(joined) or self.holes.refuse(joined):
            return None
        return self._put(joined)

    def join_fences(self, fences: Mapping[PeerName, Fence]) -> dict[PeerName, Fence]:
        """Join received fences into ours and return those that are news. A join like `join`."""
        news: dict[PeerName, Fence] = {}
        for peer, fence in fences.items():
            mine = self._fences.get(peer)
            if mine is not None and mine >= fence:
                continue
            if mine is not None:
                self._digest.toggle(*fence_item(peer, mine))
            elif len(self._fences) >= MAX_PEERS:
                continue
            self._digest.toggle(*fence_item(peer, fence))
            self._fences[peer] = news[peer] = fence
        if news:
            self._live = self._sizes = None
        return news

    def stamp(self, taker: PeerName, generation: int) -> list[Entry]:
        """Write down as `taker`'s what fences made it: the taker calls it, nobody else.

        Returns the entries that this wrote. Nothing may be given out of them before.
        """
        written: list[Entry] = []
        for entries in self.inherited_by(taker).values():
            for raw in entries:
                _, epoch = self._inherit(raw)
                self._put(
                    replace(
                        raw,
                        owner=taker,
                        version=raw.version + 1,
                        generation=generation,
                        epoch=epoch,
                    )
                )
                written.append(self._entries[raw.token])
        return written

    def inherited_by(self, taker: PeerName) -> dict[PeerName, list[Entry]]:
        """Return the entries that fences made `taker`'s and that it has not stamped yet, as they
        were written, by the peer they belonged to."""
        inherited: dict[PeerName, list[Entry]] = {}
        if not self._fences:
            return inherited
        for entry in self.owned_by(taker):
            raw = self._entries[entry.token]
            if raw.owner != taker or self._inherit(raw)[1] != raw.epoch:
                inherited.setdefault(raw.owner, []).append(raw)
        return inherited

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
            assert self._entries[entry.token].owner == giver, "stamp what fences made yours first"
            fence = self._fences.get(taker)
            epoch = entry.epoch if fence is None else max(entry.epoch, fence.epoch)
            head = self.universe.distance(entry.token, start)
            given = min(size, entry.size - head)
            tail = entry.size - head - given
            write = partial(self._write, generation=generation, level=entry.level)
            if head:
                written.append(write(entry.token, head, giver, epoch=entry.epoch))
            written.append(write(start, given, taker, epoch=epoch))
            start = self.universe.wrap(start + given)
            if tail:
                written.append(write(start, tail, giver, epoch=entry.epoch))
            size -= given
        self._check_around(written)
        return written

    def mergeable(self, owner: PeerName) -> list[list[Entry]]:
        """Return the entries that their owner may merge, each list a run of neighbours."""
        runs = self._runs(owner, [])
        return self._runs(owner, contested) if runs and (contested := self.contested()) else runs

    def _runs(self, owner: PeerName, contested: Sequence[Range]) -> list[list[Entry]]:
        runs: list[list[Entry]] = []
        for live in self.owned_by(owner):
            entry = self._entries[live.token]
            stamped = entry.owner == owner and self._inherit(entry)[1] == entry.epoch
            frozen = any(piece.meet(one) for piece in self._unroll(entry) for one in contested)
            if not stamped or frozen:
                continue
            if runs and self._continues(runs[-1][-1], entry):
                runs[-1].append(entry)
            else:
                runs.append([entry])
        if len(runs) > 1 and self._continues(runs[-1][-1], runs[0][0]):
            runs[0] = runs.pop() + runs[0]
        return [run for run in runs if len(run) > 1]

    def _continues(self, entry: Entry, following: Entry) -> bool:
        end = self.universe.wrap(entry.token + entry.size)
        return following.token == end and following.epoch == entry.epoch

    def merge(self, run: Sequence[Entry], generation: int) -> Entry:
        """Make one entry of a run of `mergeable`, or of a part of it. Its owner calls it.

        It stays in their epoch: an entry must not escape a fence on its owner.
        """
        for entry, following in pairwise(run):
            assert self._continues(entry, following), "only neighbours of one epoch are merged"
            assert entry.owner == following.owner, "only the owner merges"
        assert all(self._entries.get(entry.token) == entry for entry in run)
        first = run[0]
        merged = replace(
            first,
            size=sum(entry.size for entry in run),
            version=first.version + 1,
            generation=generation,
            level=max(entry.level for entry in run) + 1,
        )
        self._put(merged)
        self._check_around([merged])
        return merged

    def _write(
        self, token: int, size: int, owner: PeerName, *, generation: int, epoch: int, level: int
    ) -> Entry:
        before = self._entries.get(token)
        version = 1 if before is None else before.version + 1
        entry = Entry(token, size, owner, version, generation, epoch=epoch, level=level)
        self._put(entry)
        return entry

    def _put(self, entry: Entry) -> list[Entry]:
        """Let the entry stand at its token; returns what goes for it."""
        gone = self._absorbed_by(entry) if entry.level else []
        for one in gone:
            self._remove(one)
        before = self._entries.get(entry.token)
        if before is None:
            insort(self._tokens, entry.token)
            self._buckets[bucket_of(entry.key)][entry.token] = None
        else:
            gone.append(before)
            self._forget(before)
        self._count_epoch(entry.epoch, 1)
        self._live = self._sizes = None
        self._entries[entry.token] = entry
        self._merged.add(entry)
        self._digest.toggle(entry.key, entry.item())
        if self.holes:
            self.holes.fill(entry)
        for one in gone:
            if one.level:
                self.holes.leave(one, self._around(one))
        return gone

    def _remove(self, entry: Entry) -> None:
        del self._tokens[bisect_left(self._tokens, entry.token)]
        del self._buckets[bucket_of(entry.key)][entry.token]
        del self._entries[entry.token]
        self._sizes = None
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        self._digest.toggle(entry.key, entry.item())
        self._count_epoch(entry.epoch, -1)
        self._merged.remove(entry)

    def _absorbed_by(self, entry: Entry) -> list[Entry]:
        return [one for one in self._beginning_in(entry) if entry.absorbs(one, self.universe)]

    def _around(self, entry: Entry) -> list[Entry]:
        """Return what may cover addresses of an entry that is gone."""
        before = self._tokens[bisect_right(self._tokens, entry.token) - 1]
        return [
            self._entries[before],
            *self._merged.reaching(entry.token),
            *self._beginning_in(entry),
        ]

    def _beginning_in(self, entry: Entry) -> list[Entry]:
        return [
            self._entries[token]
            for piece in self._unroll(entry)
            for token in self._tokens[
                bisect_left(self._tokens, piece.start) : bisect_left(self._tokens, piece.end)
            ]
        ]

    def _count_epoch(self, epoch: int, change: int) -> None:
        count = self._per_epoch.get(epoch, 0) + change
        if count:
            self._per_epoch[epoch] = count
        else:
            del self._per_epoch[epoch]

    # --- fences ----------------------------------------------------------------------------

    def _is_plain(self) -> bool:
        """True if there never was a fence: all entries are live, and their owners' who they say."""
        return not self._fences and len(self._per_epoch) <= 1

    def _inherit(self, entry: Entry) -> tuple[PeerName, int]:
        """Return who owns an entry after all take-overs, and in which epoch."""
        owner, epoch = entry.owner, entry.epoch
        while (fence := self._fences.get(owner)) is not None and epoch < fence.epoch:
            owner, epoch = fence.taker, fence.epoch
        return owner, epoch

    def _look(self) -> dict[int, Entry]:
        if self._live is None:
            self._live = {}
            shadowed = self._shadowed()
            for token in self._tokens:
                if token not in shadowed:
                    entry = self._entries[token]
                    owner, _ = self._inherit(entry)
                    self._live[token] = (
                        entry if owner == entry.owner else replace(entry, owner=owner)
                    )
            self._live_tokens = list(self._live)
        return self._live

    def _shadowed(self) -> dict[int, None]:
        """Return the tokens whose entries lie whole under entries of higher epochs."""
        if len(self._per_epoch) <= 1 or self._tiles():
            return {}
        shadowed: dict[int, None] = {}
        covered: list[Range] = []
        for epoch in sorted(self._per_epoch, reverse=True):
            here = [entry for entry in self._entries.values() if entry.epoch == epoch]
            pieces: list[Range] = []
            for entry in here:
                unrolled = normalise(self._unroll(entry))
                if covered and not subtract(unrolled, covered):
                    shadowed[entry.token] = None
                pieces += unrolled
            covered = normalise([*covered, *pieces])
        return shadowed

    def _tiles(self) -> bool:
        """True if no entry reaches beyond the next token: then none shadows another."""
        following = [*self._tokens[1:], self._tokens[0] + self.universe.size]
        return all(
            token + self._entries[token].size <= next_token
            for token, next_token in zip(self._tokens, following, strict=True)
        )

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
        covered = normalise(piece for entry in self.live() for piece in self._unroll(entry))
        return self.universe.size - sum(piece.size for piece in covered)

    def check_tiles(self) -> None:
        """Assert that the entries tile the universe: no gap, no overlap."""
        live = self.live()
        assert live, "a ring has at least one entry"
        for at, entry in enumerate(live):
            following = live[(at + 1) % len(live)].token
            reach = self.universe.distance(entry.token, following) or self.universe.size
            assert entry.size == reach, f"{entry} does not reach the next token {following}"

    def _check_around(self, written: Sequence[Entry]) -> None:
        """Assert that what was just written meets its neighbours, at the cost of a few steps."""
        if not self._is_plain():
            self._look()
        tokens = self._tokens if self._is_plain() else self._live_tokens
        for entry in written:
            at = bisect_left(tokens, entry.token)
            following = tokens[(at + 1) % len(tokens)]
            reach = self.universe.distance(entry.token, following) or self.universe.size
            assert entry.size <= reach, f"{entry} overlaps the entry at {following}"

    def _unroll(self, entry: Entry) -> tuple[Range, ...]:
        return self.universe.unroll(entry.token, entry.size)
