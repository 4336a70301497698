"""Entries merged with their neighbours: what was merged loses wherever it turns up again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.core.merged import MergedEntries
from ipam.core.ranges import Range, Universe, normalise, subtract
from ipam.core.ring import Entry, Fence, Ring
from tests.ipam.core.mesh import peer_name
from weavepy.base.names import PeerName

UNIVERSE = Universe(0, 16, 4)
NAMES = [peer_name(number) for number in range(1, 4)]
A, B, C = NAMES

peers = st.integers(0, 2)
offsets = st.integers(0, 15)
donations = st.tuples(st.just("donate"), peers, peers, offsets, st.integers(1, 8))
merges = st.tuples(st.just("merge"), peers, st.just(0), st.just(0), st.just(0))
fences = st.tuples(st.just("fence"), peers, peers, st.just(0), st.just(0))
late = st.tuples(st.just("late"), peers, peers, offsets, st.integers(1, 8))
late_merges = st.tuples(st.just("late merge"), peers, st.just(0), st.just(0), st.just(0))
Op = tuple[str, int, int, int, int]


def ring_of(entries: Iterable[Entry], fenced: dict[PeerName, Fence] | None = None) -> Ring:
    ring = Ring(b"ring", UNIVERSE)
    ring.join_fences(fenced or {})
    ring.join(entries)
    return ring


def copy_of(ring: Ring) -> Ring:
    return ring_of(ring.entries(), dict(ring.fences()))


def donate(ring: Ring, giver: PeerName, taker: PeerName, start: int, size: int) -> list[Entry]:
    """Do as much of a donation as lies in one of the giver's ranges."""
    for piece in subtract(ring.ranges_of(giver), ring.contested()):
        common = piece.meet(Range(start, min(start + size, 16)))
        if common is not None and not ring.inherited_by(giver):
            return ring.donate(giver, common.start, common.size, taker, 1)
    return []


def merge(ring: Ring, owner: PeerName) -> list[Entry]:
    return [ring.merge(run, 1) for run in ring.mergeable(owner)]


class History:
    """One ring that always knows everything, and the old selves of peers that were fenced."""

    def __init__(self) -> None:
        self.ring = Ring.divide(b"ring", UNIVERSE, NAMES)
        self.written = self.ring.entries()
        self.old: dict[PeerName, Ring] = {}

    def play(self, history: list[Op]) -> History:
        for kind, first, second, start, size in history:
            peer, other = NAMES[first], NAMES[second]
            old = self.old.get(peer)
            if kind == "donate" and peer != other:
                self.written += donate(self.ring, peer, other, start, size)
            elif kind == "merge":
                self.written += merge(self.ring, peer)
            elif kind == "fence" and peer != other and self.ring.owned_by(peer):
                self.old[peer] = copy_of(self.ring)
                epoch = self.ring.highest_epoch() + 1
                self.ring.join_fences({peer: Fence(epoch, other)})
                self.written += self.ring.stamp(other, 1)
            elif kind == "late" and old is not None and peer != other:
                self.written += donate(old, peer, other, start, size)
            elif kind == "late merge" and old is not None:
                self.written += merge(old, peer)
            self.ring.check_tiles()
        return self


@given(st.lists(donations | merges, max_size=14), st.data())
@settings(max_examples=150, deadline=None)
def test_who_has_heard_the_current_entries_is_equal_whatever_else_it_heard(
    ops: list[Op], data: st.DataObject
) -> None:
    history = History().play(ops)
    whole = history.ring
    stale = data.draw(st.lists(st.sampled_from(history.written), max_size=20))
    heard = ring_of(data.draw(st.permutations([*whole.entries(), *stale])))
    assert heard.entries() == whole.entries()
    assert heard.digest() == whole.digest()
    assert not heard.holes


@given(st.lists(donations | merges | fences | late | late_merges, max_size=16), st.data())
@settings(max_examples=200, deadline=None)
def test_what_a_fenced_peer_merged_too_late_owns_nothing_in_whatever_order_it_is_heard(
    ops: list[Op], data: st.DataObject
) -> None:
    history = History().play(ops)
    whole = history.ring
    stale = data.draw(st.lists(st.sampled_from(history.written), max_size=20))
    order = data.draw(st.permutations([*whole.entries(), *stale]))
    heard = ring_of(order, dict(whole.fences()))
    assert heard.live() == whole.live()
    assert not heard.contested()


@given(st.lists(donations | merges, max_size=14), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_no_two_peers_ever_take_an_address_for_their_own(ops: list[Op], rng: Random) -> None:
    """Each writes what it owns as far as it knows; news get lost, come late, come again."""
    first = Ring.divide(b"ring", UNIVERSE, NAMES).entries()
    views = {name: ring_of(first) for name in NAMES}
    written = list(first)
    for kind, one, other, start, size in ops:
        peer, view = NAMES[one], views[NAMES[one]]
        if kind == "merge":
            written += merge(view, peer)
        elif one != other:
            written += donate(view, peer, NAMES[other], start, size)
        for _ in range(rng.randrange(20)):
            views[rng.choice(NAMES)].join([rng.choice(written)])
            owned = [piece for name in NAMES for piece in views[name].ranges_of(name)]
            assert sum(p.size for p in normalise(owned)) == sum(p.size for p in owned), written


def test_what_a_dead_peer_merged_too_late_takes_nothing_away_from_its_taker() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.donate(B, 8, 4, A, 1)
    old = copy_of(ring)
    ring.join_fences({A: Fence(1, C)})
    ring.stamp(C, 1)
    (late,) = merge(old, A)
    for order in permutations([*ring.entries(), late]):
        assert ring_of(order, dict(ring.fences())).live() == ring.live()


def test_what_was_merged_before_a_take_over_stays_gone_after_it() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    old = ring.donate(B, 8, 4, A, 1)
    merge(ring, A)
    ring.join_fences({A: Fence(1, B)})
    (stamped,) = ring.stamp(B, 1)
    assert (stamped.epoch, stamped.level) == (1, 1)
    assert ring.join(old) == []


def test_a_run_becomes_one_entry_and_what_it_was_made_of_is_gone_for_good() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    parts = ring.donate(B, 8, 4, A, 1)
    before = ring.entries()
    (run,) = ring.mergeable(A)
    merged = ring.merge(run, 3)
    assert merged == Entry(0, 12, A, version=2, generation=3, level=1)
    assert ring.entries() == [merged, parts[1]]
    assert ring.join(before) == []
    ring.check_tiles()


def test_a_run_may_cross_the_end_and_a_whole_circle_becomes_one_entry() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.donate(B, 12, 4, A, 1)
    (run,) = ring.mergeable(A)
    assert ring.merge(run, 1) == Entry(12, 12, A, version=2, generation=1, level=1)
    ring.donate(B, 8, 4, A, 1)
    (run,) = ring.mergeable(A)
    assert ring.merge(run, 1).size == 16
    ring.check_tiles()
    assert ring.mergeable(A) == []
    assert {ring.covering(at).owner for at in range(16)} == {A}  # type: ignore[union-attr]


def test_what_is_cut_from_a_merged_entry_wins_over_what_was_there_before_it() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.donate(A, 4, 4, B, 1)
    ring.donate(B, 4, 4, A, 1)
    ring.donate(A, 4, 4, B, 1)
    ring.donate(B, 4, 4, A, 1)
    old = ring.get(4)
    assert old is not None
    assert old.version == 4
    ring.merge(ring.mergeable(A)[0], 1)
    (_, given, _) = ring.donate(A, 4, 2, C, 1)
    assert (given.version, given.level) == (1, 1)
    assert ring.join([old]) == []


def test_entries_of_two_epochs_are_not_merged() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.join_fences({B: Fence(1, A)})
    assert ring.mergeable(A) == []  # what it has taken over is not written down as its own yet
    ring.stamp(A, 1)
    assert ring.mergeable(A) == []
    with pytest.raises(AssertionError):
        ring.merge(ring.owned_by(A), 1)


def test_what_is_contested_or_disputed_is_not_merged() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.donate(B, 8, 4, A, 1)
    ring.join([Entry(2, 1, C, version=1, generation=0)])
    assert ring.mergeable(A) == []
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    (given, _) = ring.donate(B, 8, 4, A, 1)
    ring.join([replace(given, generation=9)])
    assert ring.mergeable(A) == []


def test_only_what_stands_in_the_ring_and_is_of_one_owner_is_merged() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    with pytest.raises(AssertionError, match="only the owner"):
        ring.merge(ring.entries(), 1)
    with pytest.raises(AssertionError):
        ring.merge([replace(entry, owner=A) for entry in ring.entries()], 1)


def test_an_old_entry_does_not_get_into_a_hole_though_it_names_whoever_hears_of_it() -> None:
    """B gave 4..8 to A, which merged it and gave it to C. B has not heard of the last step whole;
    its old entry, which names B, comes from a peer that was away for long."""
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    view = copy_of(ring)
    old = ring.donate(A, 4, 4, B, 1)
    given = ring.donate(B, 4, 4, A, 1)
    merged = ring.merge(ring.mergeable(A)[0], 1)
    first, second = ring.donate(A, 4, 4, C, 1)
    view.join([*old, *given, merged, first])
    assert [hole.range for hole in view.holes.all()] == [Range(4, 8)]
    assert view.join(old) == []
    assert view.ranges_of(B) == [Range(8, 16)]
    view.join([second])
    assert not view.holes
    assert view.entries() == ring.entries()


def test_a_hole_is_filled_bit_by_bit_and_by_what_is_of_a_later_epoch() -> None:
    ring = ring_of([Entry(0, 16, A, 1, 1, level=2), Entry(0, 4, A, 2, 1, level=2)])
    assert [hole.range for hole in ring.holes.all()] == [Range(4, 16)]
    assert ring.join([Entry(6, 2, B, 9, 1, level=1)]) == []
    assert ring.join([Entry(2, 4, B, 9, 1, level=1)]) == []
    ring.join([Entry(6, 2, B, 1, 1, level=2), Entry(12, 4, B, 1, 1, epoch=1)])
    assert [hole.range for hole in ring.holes.all()] == [Range(4, 6), Range(8, 12)]


entries = st.builds(
    Entry,
    token=offsets,
    size=st.integers(1, 16),
    owner=st.sampled_from(NAMES),
    version=st.integers(1, 2),
    generation=st.just(0),
    epoch=st.integers(0, 1),
    level=st.integers(0, 2),
)


@given(st.lists(entries, max_size=8))
def test_nothing_that_another_entry_absorbs_stands_in_a_ring_even_after_lies(
    lies: list[Entry],
) -> None:
    ring = ring_of(lies)
    for one in ring.entries():
        assert not any(other.absorbs(one, UNIVERSE) for other in ring.entries())
        assert ring.join([one]) == []


@given(st.lists(entries, max_size=10, unique_by=lambda entry: entry.token), entries)
def test_the_index_of_merged_entries_finds_what_looking_at_all_finds(
    merged: list[Entry], entry: Entry
) -> None:
    index = MergedEntries(UNIVERSE)
    for one in merged:
        index.add(one)
    for one in merged[::3]:
        index.remove(one)
    left = [one for at, one in enumerate(merged) if at % 3]
    assert index.absorb(entry) == any(one.absorbs(entry, UNIVERSE) for one in left)
