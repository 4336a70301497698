"""The laws of the join, over rings that arise through legal histories."""

from collections.abc import Iterable
from ipaddress import ip_network
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.core.ranges import Range, Universe
from ipam.core.ring import Entry, Ring
from tests.ipam.core.mesh import peer_name

UNIVERSE = Universe.of(ip_network("10.32.0.0/27"))
NAMES = [peer_name(number) for number in range(1, 4)]
FIRST = UNIVERSE.first

donations = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 31), st.integers(1, 31)),
    max_size=12,
)


def ring_of(entries: Iterable[Entry]) -> Ring:
    ring = Ring(b"ring", UNIVERSE)
    ring.join(entries)
    return ring


def donate(ring: Ring, giver: int, taker: int, start: int, size: int) -> list[Entry]:
    """Do as much of a donation as lies in one of the giver's ranges."""
    for piece in ring.ranges_of(NAMES[giver]):
        common = piece.meet(Range(FIRST + start, FIRST + start + size))
        if common is not None:
            return ring.donate(NAMES[giver], common.start, common.size, NAMES[taker], 1)
    return []


def states_of(history: list[tuple[int, int, int, int]]) -> list[list[Entry]]:
    """Play a history at one place and return the state after each step."""
    ring = Ring.divide(b"ring", UNIVERSE, NAMES)
    states = [ring.entries()]
    for giver, taker, start, size in history:
        donate(ring, giver, taker, start, size)
        ring.check_tiles()
        states.append(ring.entries())
    return states


@given(donations, st.data())
def test_any_updates_in_any_order_any_number_of_times_give_the_same_ring(
    history: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    written = [entry for state in states_of(history) for entry in state]
    shuffled = data.draw(st.permutations(written))
    again = data.draw(st.lists(st.sampled_from(written)))
    assert ring_of([*shuffled, *again]).entries() == states_of(history)[-1]
    assert ring_of([*shuffled, *again]).digest() == ring_of(states_of(history)[-1]).digest()


@given(donations)
def test_who_knows_only_its_own_new_entry_does_not_take_more_than_was_given(
    history: list[tuple[int, int, int, int]],
) -> None:
    ring = Ring.divide(b"ring", UNIVERSE, NAMES)
    for giver, taker, start, size in history:
        for entry in donate(ring, giver, taker, start, size):
            if entry.owner == NAMES[taker]:
                seen = ring_of([*Ring.divide(b"ring", UNIVERSE, NAMES).entries(), entry])
                assert seen.covering(entry.token + entry.size - 1) == entry
                assert seen.covering(entry.token + entry.size) != entry


entries = st.builds(
    Entry,
    token=st.sampled_from([FIRST, FIRST + 8]),
    size=st.sampled_from([4, 8, 24]),
    owner=st.sampled_from(NAMES),
    version=st.integers(1, 2),
    generation=st.integers(0, 1),
    disputed=st.booleans(),
)


@given(st.lists(entries, min_size=3, max_size=3))
def test_even_lies_join_alike_in_every_order(lies: list[Entry]) -> None:
    results = {tuple(ring_of(order).entries()) for order in permutations(lies)}
    assert len(results) == 1
    twice = ring_of([*lies, *lies])
    assert tuple(twice.entries()) in results


@given(entries, entries, entries)
def test_the_join_of_rings_is_associative(a: Entry, b: Entry, c: Entry) -> None:
    left = ring_of([*ring_of([a, b]).entries(), c]).entries()
    right = ring_of([a, *ring_of([b, c]).entries()]).entries()
    assert left == right


def test_two_contents_of_one_version_are_disputed_and_frozen() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, NAMES[:2])
    lie = Entry(FIRST, 16, NAMES[2], version=1, generation=0)
    (news,) = ring.join([lie])
    assert news.disputed
    assert ring.contested() == [Range(FIRST, FIRST + 16)]


def test_ranges_that_overlap_are_frozen_where_they_do() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, NAMES[:2])
    ring.join([Entry(FIRST + 12, 8, NAMES[2], version=1, generation=0)])
    assert ring.contested() == [Range(FIRST + 12, FIRST + 20)]


def test_only_the_owner_donates() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, NAMES[:2])
    with pytest.raises(AssertionError):
        ring.donate(NAMES[1], FIRST, 4, NAMES[2], 1)


def test_a_donation_from_the_middle_leaves_both_ends_with_the_giver() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, NAMES[:1])
    written = ring.donate(NAMES[0], FIRST + 8, 4, NAMES[1], 7)
    assert [(e.token - FIRST, e.size, e.owner, e.version) for e in written] == [
        (0, 8, NAMES[0], 2),
        (8, 4, NAMES[1], 1),
        (12, 20, NAMES[0], 1),
    ]
    assert {entry.generation for entry in written} == {7}
    ring.check_tiles()


def test_a_donation_may_span_several_entries_of_the_giver() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, NAMES[:2])
    ring.donate(NAMES[1], FIRST + 16, 8, NAMES[0], 1)
    written = ring.donate(NAMES[0], FIRST + 8, 12, NAMES[2], 2)
    assert ring.ranges_of(NAMES[2]) == [Range(FIRST + 8, FIRST + 20)]
    assert ring.ranges_of(NAMES[0]) == [
        Range(FIRST, FIRST + 8),
        Range(FIRST + 20, FIRST + 24),
    ]
    assert [entry.token - FIRST for entry in written] == [0, 8, 16, 20]
    ring.check_tiles()


def test_a_ring_whose_range_crosses_the_end_knows_whose_addresses_those_are() -> None:
    ring = Ring(b"ring", UNIVERSE)
    ring.join(
        [
            Entry(FIRST + 30, 4, NAMES[0], version=1, generation=0),
            Entry(FIRST + 2, 28, NAMES[1], version=1, generation=0),
        ]
    )
    ring.check_tiles()
    assert not ring.contested()
    assert not ring.gaps()
    owners = [ring.covering(FIRST + at) for at in (31, 0, 1, 2)]
    assert [entry.owner for entry in owners if entry] == [NAMES[0]] * 3 + [NAMES[1]]
    ring.donate(NAMES[0], FIRST + 31, 2, NAMES[2], 1)
    ring.check_tiles()
    assert ring.ranges_of(NAMES[2]) == [
        Range(FIRST, FIRST + 1),
        Range(FIRST + 31, FIRST + 32),
    ]


def test_more_peers_than_addresses_share_them_as_far_as_they_go() -> None:
    names = [peer_name(number) for number in range(1, 8)]
    ring = Ring.divide(b"ring", Universe.of(ip_network("10.0.0.0/30")), names)
    assert list(ring.owners().values()) == [1, 1, 1, 1]
