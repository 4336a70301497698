"""What a merged entry absorbs, what it leaves behind, and how it is found."""

from dataclasses import replace

import pytest

from ipam.core.entry import Entry
from ipam.core.holes import MAX_HOLES, Hole, Holes
from ipam.core.merged import MergedEntries
from ipam.core.ranges import Range, Universe
from ipam.core.ring import Fence, Ring
from tests.ipam.core.parts import A, B

UNIVERSE = Universe(0, 16, 4)


def entry(token: int, size: int, level: int = 0, **fields: object) -> Entry:
    return replace(Entry(token, size, A, 1, 1, level=level), **fields)  # type: ignore[arg-type]


# --- which of two wins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older", "later"),
    [
        (entry(0, 4, 0, version=9), entry(0, 8, 1)),
        (entry(0, 4, 5), entry(0, 8, 0, epoch=1)),
        (entry(0, 4, 1), entry(0, 8, 1, version=2)),
    ],
)
def test_the_epoch_comes_before_the_level_and_that_before_the_version(
    older: Entry, later: Entry
) -> None:
    assert older.join(later) == later.join(older) == later


@pytest.mark.parametrize(
    ("other", "absorbed"),
    [
        (entry(13, 1), True),
        (entry(2, 1), True),
        (entry(1, 9), True),
        (entry(3, 1), False),
        (entry(11, 4), False),
        (entry(12, 2), False),
        (entry(13, 1, 1), False),
        (entry(13, 1, 2), False),
        (entry(13, 1, epoch=2), False),
        (entry(13, 1, epoch=3), False),
        (entry(13, 1, epoch=1), True),
    ],
)
def test_a_merged_entry_absorbs_what_begins_in_it_below_its_level(
    other: Entry, absorbed: bool
) -> None:
    assert entry(12, 7, 1, epoch=1).absorbs(other, UNIVERSE) is absorbed


def test_all_peers_know_an_entry_by_the_same_key() -> None:
    assert entry(258, 1).key.hex() == "00000000000000000000000000000102"


# --- holes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        (entry(4, 1, 1), True),
        (entry(7, 1, 1), True),
        (entry(14, 7, 1), True),
        (entry(0, 4, 1), False),
        (entry(8, 2, 1), False),
        (entry(4, 1, 2), False),
        (entry(4, 1, 3), False),
        (entry(4, 1, 1, epoch=1), True),
        (entry(4, 1, 1, epoch=2), False),
    ],
)
def test_a_hole_refuses_what_is_older_than_what_was_merged_there(
    other: Entry, refused: bool
) -> None:
    holes = Holes(UNIVERSE)
    assert not holes.refuse(other)
    holes.add(Hole(Range(4, 8), epoch=1, level=2))
    assert holes.refuse(other) is refused


def test_what_a_merged_entry_leaves_uncovered_becomes_holes() -> None:
    gone = entry(14, 8, 2, epoch=1)
    holes = Holes(UNIVERSE)
    covering = [entry(15, 2, 2, epoch=1), entry(2, 1, 0, epoch=2), entry(4, 2, 1, epoch=1)]
    holes.leave(gone, covering)
    assert holes.all() == [
        Hole(Range(1, 2), 1, 2),
        Hole(Range(3, 6), 1, 2),
        Hole(Range(14, 15), 1, 2),
    ]
    assert len(holes) == 3
    holes = Holes(UNIVERSE)
    holes.leave(gone, [gone])
    assert not holes


def test_what_is_current_fills_a_hole_and_what_is_older_does_not() -> None:
    holes = Holes(UNIVERSE)
    holes.add(Hole(Range(4, 10), 1, 2))
    holes.add(Hole(Range(0, 2), 1, 2))
    holes.fill(entry(5, 2, 1, epoch=1))
    assert len(holes) == 2
    holes.fill(entry(5, 2, 2, epoch=1))
    assert holes.all() == [
        Hole(Range(4, 5), 1, 2),
        Hole(Range(7, 10), 1, 2),
        Hole(Range(0, 2), 1, 2),
    ]
    holes.fill(entry(9, 10, 0, epoch=2))
    assert holes.all() == [Hole(Range(4, 5), 1, 2), Hole(Range(7, 9), 1, 2)]


def test_a_bounded_number_of_holes_is_kept_the_latest() -> None:
    holes = Holes(Universe(0, 4096, 4))
    for at in range(MAX_HOLES + 3):
        holes.add(Hole(Range(at, at + 1), 0, 1))
    assert len(holes) == MAX_HOLES == 1024
    assert holes.all()[0].range.start == 3
    assert holes.all()[-1].range.start == MAX_HOLES + 2


# --- finding merged entries --------------------------------------------------------------------


def merged(*entries: Entry) -> MergedEntries:
    made = MergedEntries(UNIVERSE)
    for one in entries:
        made.add(one)
    return made


@pytest.mark.parametrize("size", range(1, 16))
def test_all_that_cover_an_address_are_found(size: int) -> None:
    tokens = (0, 1, 3, 7, 14)
    found = merged(*(entry(token, size, 1) for token in tokens))
    for address in range(16):
        expected = [at for at in tokens if UNIVERSE.distance(at, address) < size]
        reaching = [one.token for one in found.reaching(address)]
        assert len(set(reaching)) == len(reaching)
        assert sorted(set(reaching) & set(expected)) == expected


def test_entries_of_different_sizes_are_found_and_those_far_away_are_not_looked_at() -> None:
    found = merged(entry(0, 12, 1), entry(9, 2, 1), entry(2, 1, 1))
    assert sorted(one.token for one in found.reaching(10)) == [0, 9]
    assert [one.token for one in found.reaching(15)] == [0]


def test_what_was_never_merged_is_not_in_there() -> None:
    found = merged(entry(0, 8))
    assert list(found.reaching(3)) == []
    found.remove(entry(0, 8))
    assert not found.absorb(entry(3, 1))


def test_what_is_removed_is_found_no_more() -> None:
    one, other = entry(0, 8, 1), entry(1, 9, 1)
    found = merged(one, other)
    assert found.absorb(entry(3, 1))
    found.remove(one)
    assert [left.token for left in found.reaching(3)] == [1]
    found.remove(other)
    assert not found.absorb(entry(3, 1))
    found.add(one)
    assert found.absorb(entry(3, 1))
    assert not found.absorb(entry(3, 1, 1))


# --- in the ring -----------------------------------------------------------------------------


def ring_of(*entries: Entry) -> Ring:
    ring = Ring(b"ring", UNIVERSE)
    ring.join(entries)
    return ring


def shapes(runs: list[list[Entry]]) -> list[list[int]]:
    return [[one.token for one in run] for run in runs]


def test_neighbours_of_one_owner_and_epoch_may_be_merged_also_across_the_end() -> None:
    ring = ring_of(
        entry(1, 2),
        entry(3, 2),
        entry(5, 2, owner=B),
        entry(7, 2),
        entry(9, 1),
        entry(10, 2, epoch=1),
        entry(12, 5),
    )
    assert shapes(ring.mergeable(A)) == [[12, 1, 3], [7, 9]]
    assert ring.mergeable(B) == []
    assert ring_of(entry(0, 16)).mergeable(A) == []


def test_what_is_contested_or_not_stamped_is_not_merged() -> None:
    ring = ring_of(entry(0, 4), entry(4, 4), entry(8, 4), entry(11, 5, owner=B))
    assert shapes(ring.mergeable(A)) == [[0, 4]]
    ring = ring_of(entry(0, 8), entry(8, 8, owner=B))
    ring.join_fences({B: Fence(1, A)})
    assert ring.mergeable(A) == []
    ring = ring_of(entry(0, 4, owner=B), entry(4, 4), entry(8, 8))
    ring.join_fences({B: Fence(1, A)})
    assert shapes(ring.mergeable(A)) == [[4, 8]]
    ring = ring_of(entry(0, 8), entry(8, 8))
    ring.join_fences({A: Fence(1, B), B: Fence(2, A)})
    assert ring.mergeable(A) == []


def test_merging_makes_one_entry_above_all_that_it_is_made_of() -> None:
    ring = ring_of(entry(14, 4, 1, version=3), entry(2, 4, 2), entry(6, 8, owner=B))
    (run,) = ring.mergeable(A)
    made = ring.merge(run, generation=7)
    assert made == entry(14, 8, 3, version=4, generation=7)
    assert ring.entries() == [entry(6, 8, owner=B), made]
    ring.check_tiles()
    assert ring.join([entry(2, 4, 2)]) == []
    assert len(ring.holes) == 0


def test_a_cut_of_a_merged_entry_keeps_its_level_and_the_rest_unheard_is_a_hole() -> None:
    giver = ring_of(entry(0, 8), entry(8, 8))
    whole = giver.merge(giver.mergeable(A)[0], generation=1)
    written = giver.donate(A, 8, 4, B, 1)
    assert [(one.token, one.size, one.level) for one in written] == [
        (0, 8, 1),
        (8, 4, 1),
        (12, 4, 1),
    ]
    assert giver.holes.all() == []
    other = ring_of(whole)
    other.join([written[0]])
    assert other.holes.all() == [Hole(Range(8, 16), 0, 1)]
    assert other.join([entry(8, 8)]) == [], "it is older than the merging"
    other.join(written[1:])
    assert other.holes.all() == []
    assert other.entries() == giver.entries()
    assert other.digest() == giver.digest()


def test_what_an_entry_replaces_and_absorbs_is_returned() -> None:
    ring = ring_of(entry(0, 4), entry(4, 4), entry(8, 8))
    assert ring.take(entry(0, 4)) is None
    assert ring.take(entry(0, 3, version=2)) == [entry(0, 4)]
    assert ring.take(entry(2, 1)) == []
    gone = ring.take(entry(0, 8, 1, version=1))
    assert gone is not None
    assert sorted(one.token for one in gone) == [0, 2, 4]
    assert ring.take(entry(4, 4, version=99)) is None


def test_a_merged_entry_that_was_replaced_absorbs_nothing_any_more() -> None:
    ring = ring_of(entry(0, 16, 1))
    ring.join([entry(0, 2, epoch=1), entry(2, 14, epoch=1)])
    assert ring.join([entry(4, 4, 0, epoch=0)]) != []
