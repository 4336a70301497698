from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.core.ranges import (
    Range,
    Universe,
    bounds_of,
    check_subnet,
    normalise,
    subtract,
    total,
    usable,
    why_reserved,
    within,
)
from weavepy.base.errors import UsageError

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


@pytest.mark.parametrize("network", ["10.0.0.0/31", "fd00::/127", "fd00::/63"])
def test_what_is_too_small_or_too_large_makes_no_universe(network: str) -> None:
    with pytest.raises(UsageError, match="too"):
        Universe.of(ip_network(network))


def test_a_universe_ends_before_its_end() -> None:
    universe = Universe.of(ip_network("10.0.0.0/24"))
    assert universe.first in universe
    assert universe.end - 1 in universe
    assert universe.end not in universe
    assert universe.first - 1 not in universe


def test_what_ran_past_the_end_of_a_circle_that_begins_anywhere_is_brought_back() -> None:
    universe = Universe(3, 10, 4)
    assert [universe.wrap(at) for at in (3, 12, 13, 15)] == [3, 12, 3, 5]


def test_the_total_counts_all_addresses() -> None:
    assert total([Range(3, 5), Range(8, 9)]) == 3


@pytest.mark.parametrize("subnet", ["10.0.0.0/24", "10.0.0.0/30", "10.0.0.252/30"])
def test_subnets_up_to_both_ends_of_the_address_range_are_accepted(subnet: str) -> None:
    check_subnet(ip_network(subnet), ip_network("10.0.0.0/24"))


@pytest.mark.parametrize(
    ("subnet", "complaint"),
    [
        ("9.255.255.0/24", "outside"),
        ("10.0.1.0/24", "outside"),
        ("10.0.0.0/23", "outside"),
        ("fd00::/120", "not of the same kind"),
        ("10.0.0.0/31", "too small"),
    ],
)
def test_subnets_in_which_nothing_can_be_given_out_are_refused(subnet: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_subnet(ip_network(subnet), ip_network("10.0.0.0/24"))


@pytest.mark.parametrize(
    ("host", "length", "complaint"),
    [
        ("10.0.0.0", 24, "of the network itself"),
        ("10.0.0.4", 30, "of the network itself"),
        ("10.0.0.255", 24, "broadcast"),
        ("10.0.0.7", 30, "broadcast"),
        ("10.0.0.7", 33, "not a prefix length"),
        ("10.0.0.7", -1, "not a prefix length"),
        ("fd00::4", 126, "of the network itself"),
        ("fd00::4", 129, "not a prefix length"),
    ],
)
def test_an_address_that_no_host_may_have_is_refused(
    host: str, length: int, complaint: str
) -> None:
    at = ip_address(host)
    universe = Universe(int(at) - 8, 16, at.version)
    assert complaint in why_reserved(universe, int(at), length)


@pytest.mark.parametrize(
    ("host", "length"),
    [
        ("10.0.0.1", 24),
        ("10.0.0.254", 24),
        ("10.0.0.5", 30),
        ("10.0.0.4", 31),
        ("10.0.0.5", 31),
        ("10.0.0.5", 32),
        ("10.0.0.5", 0),
        ("fd00::7", 126),
        ("fd00::7", 128),
    ],
)
def test_an_address_that_a_host_may_have_is_not_reserved(host: str, length: int) -> None:
    at = ip_address(host)
    assert why_reserved(Universe(int(at) - 8, 16, at.version), int(at), length) == ""
