"""The rows and the picture that operators are shown."""

import pytest

from ipam.core.allocator import Waiting
from ipam.core.messages import Hint
from ipam.core.ring import Entry, Ring
from ipam.core.status import (
    FROZEN,
    UNKNOWN,
    RangeOwner,
    WaitingStatus,
    owner_rows,
    picture_of,
    waiting_rows,
)
from tests.ipam.core.parts import A, B, C, D, replica_of, replica_without_ring


def test_each_owner_has_a_row_the_biggest_first() -> None:
    replica = replica_of(3)
    first = replica.universe.first
    assert replica.ring is not None
    replica.ring.donate(C, first + 171, 5, B, 1)
    replica.hints = {A: Hint(1, 7), B: Hint(1, 80)}
    del replica.nicknames[C]
    assert owner_rows(replica, {B: None}, 44) == (
        RangeOwner(B, "host2", 90, 90 / 256, 80, True, ("10.32.0.86-10.32.0.175",)),
        RangeOwner(A, "host1", 86, 86 / 256, 44, True, ("10.32.0.0-10.32.0.85",)),
        RangeOwner(C, "", 80, 80 / 256, None, False, ("10.32.0.176-10.32.0.255",)),
    )


def test_owners_of_equal_shares_are_in_the_order_of_their_names() -> None:
    assert [row.peer for row in owner_rows(replica_of(4), {}, 0)] == [A, B, C, D]


def test_of_many_ranges_the_first_32_are_shown() -> None:
    replica = replica_of(1)
    assert replica.ring is not None
    for number in range(40):
        replica.ring.donate(A, replica.universe.first + 4 * number, 1, B, 1)
    ranges = {row.peer: row.ranges for row in owner_rows(replica, {}, 0)}
    assert len(ranges[B]) == 32
    assert ranges[B][1] == "10.32.0.4-10.32.0.4"


def test_without_a_ring_there_is_nothing_to_show() -> None:
    replica = replica_without_ring()
    assert owner_rows(replica, {}, 0) == ()
    assert picture_of(replica, ()) == ()


@pytest.mark.parametrize(("universe", "slices"), [("10.32.0.0/24", 64), ("10.32.0.0/28", 16)])
def test_the_picture_has_equal_slices(universe: str, slices: int) -> None:
    replica = replica_of(2, universe)
    picture = picture_of(replica, owner_rows(replica, {}, 0))
    assert picture == (0,) * (slices // 2) + (1,) * (slices // 2)


def test_a_slice_is_whose_most_of_it_is() -> None:
    replica = replica_of(2)
    first = replica.universe.first
    assert replica.ring is not None
    replica.ring.donate(A, first + 4, 3, B, 1)  # of the second slice three quarters
    replica.ring.donate(A, first + 11, 1, B, 1)  # of the third one quarter
    replica.ring.donate(A, first + 14, 4, B, 1)  # of the fourth and the fifth a half each
    picture = picture_of(replica, owner_rows(replica, {}, 0))
    a, b = 1, 0
    assert picture[:3] == (a, b, a)
    assert picture[5:32] == (a,) * 27
    assert picture[32:] == (b,) * 32


def test_what_is_contested_is_frozen_and_what_nobody_owns_unknown() -> None:
    replica = replica_of(2)
    ring = Ring(b"12345678", replica.universe)
    first = replica.universe.first
    ring.join([Entry(first, 64, A, 1, 0), Entry(first + 62, 10, B, 1, 0)])
    replica.ring = ring
    picture = picture_of(replica, owner_rows(replica, {}, 0))
    assert picture == (0,) * 15 + (FROZEN,) + (1,) * 2 + (UNKNOWN,) * 46
    assert (FROZEN, UNKNOWN) == (-1, -2)


def test_a_range_across_the_end_is_drawn_on_both_sides() -> None:
    replica = replica_of(2)
    ring = Ring(b"12345678", replica.universe)
    first = replica.universe.first
    ring.join([Entry(first + 4, 248, A, 1, 0), Entry(first + 252, 8, B, 1, 0)])
    replica.ring = ring
    assert picture_of(replica, owner_rows(replica, {}, 0)) == (1,) + (0,) * 62 + (1,)


def test_who_waits_is_listed_with_what_for_and_how_long() -> None:
    replica = replica_of(1)
    network = "10.32.0.0/24"
    waiting = {
        1: Waiting(1, "allocate", "web", network, 0, 24, 5.0, 30.0, reason="why"),  # type: ignore[arg-type]
        2: Waiting(2, "claim", "db", None, replica.universe.first + 9, 24, 9.0, 30.0),
        3: Waiting(3, "prime", "", None, 0, 0, 10.0, 30.0),
    }
    assert waiting_rows(replica, waiting, 9.5) == (
        WaitingStatus("web", "an address in 10.32.0.0/24", "why", 4.5),
        WaitingStatus("db", "the address 10.32.0.9", "", 0.5),
        WaitingStatus("", "a ring", "", 0.0),
    )
