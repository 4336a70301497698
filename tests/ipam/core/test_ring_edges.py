"""A ring of sixteen addresses, one rule at a time."""

from dataclasses import replace
from itertools import permutations

import pytest

from ipam.core import ring as ring_module
from ipam.core.ranges import Range, Universe
from ipam.core.ring import Entry, Fence, Ring
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import A, B, C, D
from weavepy.base.digest import BUCKETS, bucket_of

UNIVERSE = Universe(0, 16, 4)


def entry(token: int, size: int, owner: str = A, version: int = 1, **fields: object) -> Entry:
    made = Entry(token, size, owner, version, 1)  # type: ignore[arg-type]
    return replace(made, **fields)  # type: ignore[arg-type]


def ring_of(*entries: Entry) -> Ring:
    ring = Ring(b"ring", UNIVERSE)
    ring.join(entries)
    return ring


def shape(entries: list[Entry]) -> list[tuple[int, int, str]]:
    return [(one.token, one.size, one.owner) for one in entries]


# --- one entry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older", "later"),
    [
        (entry(0, 8), entry(0, 4, version=2)),
        (entry(0, 8, version=9), entry(0, 4, epoch=1)),
        (entry(0, 8, version=1, epoch=1), entry(0, 4, version=2, epoch=1)),
        (entry(0, 8), entry(0, 8, disputed=True)),
        (entry(0, 8, B, disputed=True), entry(0, 8, A, version=2)),
    ],
)
def test_the_later_of_two_entries_is_kept(older: Entry, later: Entry) -> None:
    assert older.join(later) == later.join(older) == later.join(later) == later


@pytest.mark.parametrize(
    ("one", "greater"),
    [
        (entry(0, 8), entry(0, 4, generation=2)),
        (entry(0, 8), entry(0, 4, B)),
        (entry(0, 4), entry(0, 8)),
        (entry(0, 8, disputed=True), entry(0, 9)),
    ],
)
def test_of_two_contents_of_one_version_all_choose_the_same_and_dispute_it(
    one: Entry, greater: Entry
) -> None:
    assert one.join(greater) == greater.join(one) == replace(greater, disputed=True)


def test_a_digest_covers_all_of_an_entry() -> None:
    first = entry(0, 8)
    changes = [
        {"size": 7},
        {"owner": B},
        {"version": 2},
        {"generation": 2},
        {"disputed": True},
        {"epoch": 1},
    ]
    digests = {ring_of(replace(first, **change)).digest() for change in [{}, *changes]}  # type: ignore[arg-type]
    assert len(digests) == 7
    assert ring_of(replace(first, token=1)).digest() != ring_of(first).digest()


def test_a_digest_says_what_is_known_and_not_how_it_came_to_be_known() -> None:
    news = entry(0, 4, B, version=2)
    ring = ring_of(entry(0, 8), entry(8, 8))
    ring.join([news])
    assert ring.digest() == ring_of(entry(8, 8), news).digest()
    ring.donate(A, 8, 2, B, 1)
    assert ring.digest() == ring_of(*ring.entries()).digest()


# --- the first ring --------------------------------------------------------------------------


def test_the_first_ring_has_equal_shares_in_the_order_of_names() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [C, A, B, A])
    assert ring.entries() == [
        Entry(0, 6, A, 1, 0),
        Entry(6, 5, B, 1, 0),
        Entry(11, 5, C, 1, 0),
    ]
    assert ring.ring_id == b"ring"
    assert len(ring) == 3


def test_shares_are_in_the_order_of_names_however_they_were_given() -> None:
    names = [peer_name(number) for number in range(16)]
    for given in (names, names[::-1]):
        ring = Ring.divide(b"ring", UNIVERSE, given)
        assert [one.owner for one in ring.entries()] == names


# --- looking things up -----------------------------------------------------------------------


def test_an_address_is_covered_by_the_entry_that_reaches_it() -> None:
    ring = ring_of(entry(2, 4), entry(8, 2, B))
    owners = [getattr(ring.covering(at), "owner", None) for at in range(16)]
    assert owners == [None] * 2 + [A] * 4 + [None] * 2 + [B] * 2 + [None] * 6
    assert Ring(b"ring", UNIVERSE).covering(3) is None


def test_an_entry_across_the_end_covers_both_sides() -> None:
    ring = ring_of(entry(14, 4), entry(4, 2, B))
    covered = [at for at in range(16) if getattr(ring.covering(at), "owner", None) == A]
    assert covered == [0, 1, 14, 15]


def test_the_same_is_covered_when_there_are_fences() -> None:
    ring = ring_of(entry(2, 4), entry(8, 2, B))
    ring.join_fences({C: Fence(1, A)})
    owners = [getattr(ring.covering(at), "owner", None) for at in range(16)]
    assert owners == [None] * 2 + [A] * 4 + [None] * 2 + [B] * 2 + [None] * 6


def test_entries_are_found_by_token_owner_and_bucket() -> None:
    ring = ring_of(entry(8, 2, B), entry(2, 4), entry(12, 2))
    assert [one.token for one in ring.entries()] == [2, 8, 12]
    assert ring.get(8) == entry(8, 2, B)
    assert ring.get(9) is None
    assert shape(ring.owned_by(A)) == [(2, 4, A), (12, 2, A)]
    assert ring.ranges_of(A) == [Range(2, 6), Range(12, 14)]
    assert list(ring.owners().items()) == [(A, 6), (B, 2)]
    found = [one for bucket in range(BUCKETS) for one in ring.in_bucket(bucket)]
    assert sorted(one.token for one in found) == [2, 8, 12]
    assert entry(8, 2, B) in ring.in_bucket(bucket_of(entry(8, 2, B).key))


def test_entries_of_one_bucket_are_in_order() -> None:
    universe = Universe(0, 4096, 4)
    ring = Ring(b"ring", universe)
    tokens = [at for at in range(4096) if bucket_of(entry(at, 1).key) == 5]
    ring.join(entry(at, 1) for at in reversed(tokens))
    assert [one.token for one in ring.in_bucket(5)] == tokens
    assert len(tokens) > 20


def test_a_digest_tells_which_buckets_differ() -> None:
    ring, other = ring_of(entry(2, 4), entry(8, 2)), ring_of(entry(2, 4), entry(9, 2))
    assert ring.differing(ring.digest()) == []
    expected = sorted({bucket_of(entry(at, 1).key) for at in (8, 9)})
    assert ring.differing(other.digest()) == expected
    assert ring.differing(b"?") == list(range(BUCKETS))


def test_owners_are_sorted_by_name() -> None:
    assert list(ring_of(entry(0, 4, C), entry(4, 4, A), entry(8, 4, B)).owners()) == [A, B, C]


def test_the_highest_epoch_is_that_of_a_fence_or_an_entry() -> None:
    assert Ring(b"ring", UNIVERSE).highest_epoch() == 0
    ring = ring_of(entry(0, 4, epoch=3), entry(4, 4, epoch=2))
    assert ring.highest_epoch() == 3
    ring.join_fences({B: Fence(5, A), C: Fence(4, A)})
    assert ring.highest_epoch() == 5


def test_an_epoch_of_which_nothing_is_left_does_not_count() -> None:
    ring = ring_of(entry(0, 8), entry(8, 8, epoch=2))
    ring.join([entry(8, 8, version=1, epoch=3)])
    assert ring.highest_epoch() == 3
    assert ring.live() == [entry(0, 8), entry(8, 8, epoch=3)]


@pytest.mark.parametrize(
    ("entries", "contested"),
    [
        ([entry(0, 8), entry(8, 8, B)], []),
        ([entry(0, 9), entry(8, 8, B)], [Range(8, 9)]),
        ([entry(0, 12), entry(4, 2, B)], [Range(4, 6)]),
        ([entry(0, 12), entry(4, 2, B), entry(10, 4, C)], [Range(4, 6), Range(10, 12)]),
        ([entry(12, 8), entry(2, 4, B)], [Range(2, 4)]),
        ([entry(0, 4, disputed=True), entry(4, 12, B)], [Range(0, 4)]),
        ([entry(14, 4, disputed=True)], [Range(0, 2), Range(14, 16)]),
        ([entry(0, 6), entry(4, 4, B), entry(5, 1, C)], [Range(4, 6)]),
        ([entry(0, 2), entry(8, 2, B)], []),
    ],
)
def test_what_two_entries_cover_is_contested(entries: list[Entry], contested: list[Range]) -> None:
    assert ring_of(*entries).contested() == contested


@pytest.mark.parametrize(
    ("entries", "gaps"),
    [
        ([entry(0, 16)], 0),
        ([entry(0, 4), entry(8, 4)], 8),
        ([entry(0, 9), entry(8, 8)], 0),
        ([entry(14, 4)], 12),
        ([], 16),
    ],
)
def test_addresses_that_nobody_owns_are_counted(entries: list[Entry], gaps: int) -> None:
    assert ring_of(*entries).gaps() == gaps


@pytest.mark.parametrize(
    ("entries", "tiles"),
    [
        ([entry(0, 16)], True),
        ([entry(3, 16)], True),
        ([entry(0, 15)], False),
        ([entry(0, 8), entry(8, 8)], True),
        ([entry(0, 8), entry(8, 7)], False),
        ([entry(0, 9), entry(8, 8)], False),
        ([entry(12, 8), entry(4, 8)], True),
        ([], False),
    ],
)
def test_a_gap_or_an_overlap_does_not_pass_for_a_whole_ring(
    entries: list[Entry], tiles: bool
) -> None:
    ring = ring_of(*entries)
    if tiles:
        ring.check_tiles()
        return
    with pytest.raises(AssertionError):
        ring.check_tiles()


# --- donations -------------------------------------------------------------------------------


def test_what_a_donation_writes_has_the_next_versions() -> None:
    ring = ring_of(entry(0, 16, version=4))
    written = ring.donate(A, 4, 4, B, 9)
    assert written == [
        entry(0, 4, version=5, generation=9),
        entry(4, 4, B, generation=9),
        entry(8, 8, generation=9),
    ]
    assert ring.donate(B, 4, 4, C, 3) == [entry(4, 4, C, version=2, generation=3)]
    assert ring.donate(A, 8, 2, D, 9)[0] == entry(8, 2, D, version=2, generation=9)
    ring.check_tiles()


def test_a_donation_across_the_end_writes_one_entry() -> None:
    ring = ring_of(entry(0, 16))
    ring.donate(A, 12, 2, A, 1)
    ring.donate(A, 0, 12, A, 1)
    ring = ring_of(entry(8, 16))
    assert shape(ring.donate(A, 14, 4, B, 1)) == [(8, 6, A), (14, 4, B), (2, 6, A)]
    ring.check_tiles()


def test_what_is_given_to_one_that_was_fenced_is_above_its_fence_and_the_rest_stays() -> None:
    ring = ring_of(entry(0, 16, epoch=3))
    ring.join_fences({B: Fence(5, A), C: Fence(2, A)})
    written = ring.donate(A, 4, 4, B, 1)
    assert [(one.owner, one.epoch) for one in written] == [(A, 3), (B, 5), (A, 3)]
    (given,) = ring.donate(A, 0, 4, C, 1)
    assert given.epoch == 3
    assert ring.owners() == {A: 8, B: 4, C: 4}


@pytest.mark.parametrize(
    "ring",
    [ring_of(entry(4, 4)), ring_of(entry(0, 16, B)), ring_of(entry(0, 16, disputed=True))],
    ids=["a gap", "another's", "disputed"],
)
def test_what_is_not_ours_beyond_doubt_cannot_be_donated(ring: Ring) -> None:
    with pytest.raises(AssertionError):
        ring.donate(A, 2, 2, C, 1)


def test_a_taker_may_donate_only_what_it_has_written_down_as_its_own() -> None:
    ring = ring_of(entry(0, 8), entry(8, 8, B))
    ring.join_fences({B: Fence(1, A)})
    with pytest.raises(AssertionError, match="stamp"):
        ring.donate(A, 8, 2, C, 1)


def test_a_donation_that_overlaps_what_we_did_not_know_of_is_noticed() -> None:
    ring = ring_of(entry(0, 16), entry(8, 8, B))
    with pytest.raises(AssertionError, match="overlaps"):
        ring.donate(A, 4, 6, C, 1)


# --- hearing of others' writes -----------------------------------------------------------------


def test_only_news_is_returned() -> None:
    ring = ring_of(entry(0, 8), entry(8, 8, version=2))
    assert ring.join([entry(0, 8), entry(8, 4), entry(8, 6, version=3), entry(4, 1)]) == [
        entry(8, 6, version=3),
        entry(4, 1),
    ]
    assert len(ring) == 3


def test_of_two_fences_on_one_peer_the_later_counts() -> None:
    ring = ring_of(entry(0, 16, D))
    assert ring.join_fences({D: Fence(2, A)}) == {D: Fence(2, A)}
    assert ring.join_fences({D: Fence(1, C)}) == {}
    assert ring.join_fences({D: Fence(2, A)}) == {}
    assert ring.owners() == {A: 16}
    assert ring.join_fences({D: Fence(1, C), B: Fence(1, C)}) == {B: Fence(1, C)}
    assert ring.join_fences({D: Fence(2, B), C: Fence(1, B)}) == {
        D: Fence(2, B),
        C: Fence(1, B),
    }
    assert ring.fences() == {D: Fence(2, B), C: Fence(1, B), B: Fence(1, C)}
    assert ring.owners() == {B: 16}


def test_a_digest_covers_the_fences_however_they_came() -> None:
    steps = [{D: Fence(1, A)}, {D: Fence(2, B)}, {C: Fence(1, B)}]
    digests = set()
    for order in permutations(steps):
        ring = ring_of(entry(0, 16, D))
        for step in order:
            ring.join_fences(step)
        digests.add(ring.digest())
    assert len(digests) == 1
    assert ring_of(entry(0, 16, D)).digest() not in digests


def test_a_bounded_number_of_peers_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "MAX_PEERS", 2)
    ring = ring_of(entry(0, 16))
    news = ring.join_fences({B: Fence(1, A), C: Fence(1, A), D: Fence(1, A)})
    assert list(news) == [B, C]
    assert ring.join_fences({D: Fence(9, A), B: Fence(2, A)}) == {B: Fence(2, A)}


# --- taking over -----------------------------------------------------------------------------


def test_a_taker_writes_down_what_fences_made_its_own_and_only_once() -> None:
    ring = ring_of(entry(0, 4), entry(4, 4, B, version=3), entry(8, 8, C, disputed=True))
    ring.join_fences({B: Fence(1, A), C: Fence(2, A)})
    assert ring.inherited_by(A) == {
        B: [entry(4, 4, B, version=3)],
        C: [entry(8, 8, C, disputed=True)],
    }
    assert ring.inherited_by(D) == {}
    assert ring.stamp(A, generation=7) == [
        entry(4, 4, version=4, generation=7, epoch=1),
        entry(8, 8, version=2, generation=7, epoch=2, disputed=True),
    ]
    assert ring.stamp(A, generation=7) == []
    assert ring.inherited_by(A) == {}
    assert ring.get(4) == entry(4, 4, version=4, generation=7, epoch=1)


def test_what_a_taker_took_goes_on_to_its_own_taker() -> None:
    ring = ring_of(entry(0, 8), entry(8, 8, B))
    ring.join_fences({B: Fence(1, C), C: Fence(2, A)})
    assert shape(ring.live()) == [(0, 8, A), (8, 8, A)]
    assert ring.stamp(A, generation=1) == [entry(8, 8, version=2, epoch=2)]


def test_what_came_back_to_who_was_fenced_is_written_down_anew() -> None:
    ring = ring_of(entry(0, 16))
    ring.join_fences({A: Fence(1, B), B: Fence(2, A)})
    assert ring.inherited_by(A) == {A: [entry(0, 16)]}
    assert ring.stamp(A, generation=1) == [entry(0, 16, version=2, epoch=2)]


def test_a_fence_does_not_reach_its_own_epoch() -> None:
    ring = ring_of(entry(0, 8, B), entry(8, 8, B, epoch=1))
    ring.join_fences({B: Fence(1, A)})
    assert ring.owners() == {A: 8, B: 8}


def test_an_entry_under_several_of_higher_epochs_owns_nothing() -> None:
    ring = ring_of(
        entry(4, 6, B),
        entry(0, 6, C, epoch=1),
        entry(6, 4, A, epoch=2),
        entry(10, 6, A, epoch=1),
    )
    assert [one.token for one in ring.live()] == [0, 6, 10]
    assert ring.get(4) == entry(4, 6, B), "it stays known"
    ring.check_tiles()
    ring.join([entry(6, 3, A, version=2, epoch=2)])
    assert [one.token for one in ring.live()] == [0, 4, 6, 10]
    assert getattr(ring.covering(9), "owner", None) is None


def test_an_entry_of_a_higher_epoch_shadows_even_where_no_fence_is_known() -> None:
    ring = ring_of(entry(4, 6, B), entry(0, 16, A, epoch=1))
    assert [one.token for one in ring.live()] == [0]
    ring.check_tiles()


def test_an_entry_across_the_end_shadows_what_lies_behind_the_beginning() -> None:
    ring = ring_of(entry(0, 2, B), entry(4, 4, B), entry(8, 10, A, epoch=1))
    assert [one.token for one in ring.live()] == [4, 8]


def test_a_donation_is_seen_at_once_where_there_are_fences() -> None:
    ring = ring_of(entry(0, 16))
    ring.join_fences({B: Fence(1, A)})
    assert ring.owners() == {A: 16}
    ring.donate(A, 4, 4, C, 1)
    assert ring.owners() == {A: 12, C: 4}
    ring.check_tiles()
