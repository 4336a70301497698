from ipaddress import ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.core.ranges import (
    Range,
    Universe,
    bounds_of,
    normalise,
    subtract,
    usable,
    within,
)

small_ranges = st.lists(
    st.builds(lambda start, size: Range(start, start + size), st.integers(0, 40), st.integers(1, 9))
)


def members(ranges: list[Range]) -> set[int]:
    return {at for piece in ranges for at in range(piece.start, piece.end)}


@pytest.mark.parametrize("network", ["10.0.0.0/30", "0.0.0.0/8", "255.0.0.0/8", "fd00::/64"])
def test_ranges_across_the_end_of_the_universe_unroll_into_two(network: str) -> None:
    universe = Universe.of(ip_network(network))
    pieces = universe.unroll(universe.end - 1, 3)
    assert pieces == (
        Range(universe.first, universe.first + 2),
        Range(universe.end - 1, universe.end),
    )
    assert universe.wrap(universe.end) == universe.first
    assert universe.distance(universe.end - 1, universe.first + 1) == 2
    assert universe.distance(universe.first, universe.first) == 0


def test_a_range_up_to_the_end_is_one_piece() -> None:
    universe = Universe.of(ip_network("10.0.0.0/30"))
    assert universe.unroll(universe.first, 4) == (Range(universe.first, universe.end),)


def test_usable_leaves_out_what_hosts_may_not_have() -> None:
    v4, v6 = ip_network("10.0.0.0/29"), ip_network("fd00::/126")
    assert usable(v4) == Range(int(v4[1]), int(v4[6]) + 1)
    assert usable(v6) == Range(int(v6[1]), int(v6[3]) + 1)


@given(small_ranges)
def test_normalise_keeps_members_and_makes_them_disjoint(ranges: list[Range]) -> None:
    normal = normalise(ranges)
    assert members(normal) == members(ranges)
    assert all(left.end < right.start for left, right in pairwise(normal))


@given(small_ranges, small_ranges)
def test_subtract_is_set_difference(ranges: list[Range], holes: list[Range]) -> None:
    left = subtract(normalise(ranges), normalise(holes))
    assert members(left) == members(ranges) - members(holes)
    assert left == sorted(left)


@given(small_ranges)
def test_within_is_intersection(ranges: list[Range]) -> None:
    bounds = Range(5, 20)
    assert members(within(ranges, bounds)) == members(ranges) & set(range(5, 20))


def test_texts_are_those_of_addresses() -> None:
    network = ip_network("fd00::/126")
    universe = Universe.of(network)
    assert universe.range_text(bounds_of(network)) == "fd00::-fd00::3"
