"""Sets of addresses at their borders."""

from dataclasses import replace

import pytest

from ipam.core.ranges import Range
from ipam.core.space import COOLING_S, Space
from tests.ipam.core.parts import row

ALL = Range(0, 100)


def space(*owned: tuple[int, int], inherited: tuple[tuple[int, int], ...] = ()) -> Space:
    made = Space()
    made.set_ranges([Range(*piece) for piece in owned], [], [Range(*piece) for piece in inherited])
    return made


def used(made: Space, *addresses: int, owner: str = "web") -> Space:
    for address in addresses:
        made.use(row(address, owner))
    made.check()
    return made


def test_an_address_is_ours_from_the_first_to_the_last_of_a_range() -> None:
    made = space((4, 6), (8, 9))
    assert [at for at in range(12) if made.owns(at)] == [4, 5, 8]
    assert [at for at in range(12) if made.is_free(at)] == [4, 5, 8]
    assert made.owned() == (Range(4, 6), Range(8, 9))


@pytest.mark.parametrize(
    ("piece", "touches"),
    [
        ((0, 4), False),
        ((0, 5), True),
        ((5, 6), True),
        ((6, 8), False),
        ((6, 9), True),
        ((9, 20), False),
        ((0, 20), True),
    ],
)
def test_a_range_touches_ours_if_any_address_of_it_is_ours(
    piece: tuple[int, int], touches: bool
) -> None:
    assert space((4, 6), (8, 9)).touches(Range(*piece)) is touches
    assert not Space().touches(Range(*piece))


def test_what_is_frozen_is_not_ours_to_give() -> None:
    made = Space()
    made.set_ranges([Range(0, 8)], [Range(2, 4)])
    assert [at for at in range(9) if made.is_free(at)] == [0, 1, 4, 5, 6, 7]
    assert made.free_count == 6


def test_what_is_in_use_or_cools_down_is_counted_and_not_free() -> None:
    made = used(space((0, 4)), 1, 2, 9)
    made.cool(2, 5.0)
    assert (made.free_count, made.in_use_count, made.cooling_count) == (2, 2, 1)
    assert made.row(1) == row(1)
    assert made.row(2) is None
    assert made.row(3) is None
    assert made.rows() == (row(1), row(9))
    assert made.cooling_rows() == (replace(row(2), freed_at=5.0),)
    made.set_ranges([Range(0, 10)], [])
    assert [at for at in range(10) if made.is_free(at)] == [0, 3, 4, 5, 6, 7, 8]
    made.check()


def test_the_rows_of_an_owner_are_in_order_of_address() -> None:
    made = used(space((0, 8)), 5, 2, 3)
    made.use(row(2, "db"))
    assert [one.address for one in made.rows_of("web")] == [3, 5]
    assert [one.address for one in made.rows_of("db")] == [2]
    made.forget(2)
    assert made.rows_of("db") == made.rows_of("nobody") == ()


def test_what_is_in_use_and_used_again_moves_to_the_new_owner() -> None:
    made = used(space((0, 4)), 1)
    made.cool(1, 0.0)
    made.use(row(1, "db"))
    made.check()
    assert (made.in_use_count, made.cooling_count) == (1, 0)


@pytest.mark.parametrize(
    ("bounds", "lowest"),
    [
        ((0, 9), 2),
        ((3, 9), 4),
        ((4, 5), 4),
        ((0, 2), None),
        ((5, 7), None),
        ((5, 8), 7),
        ((9, 12), None),
    ],
)
def test_the_lowest_free_address_is_within_the_bounds(
    bounds: tuple[int, int], lowest: int | None
) -> None:
    made = used(space((1, 9)), 1, 3, 5, 6, 8)
    assert made.lowest_free(Range(*bounds)) == lowest
    assert made.next_free(Range(*bounds)) == lowest


def test_what_was_a_dead_peers_comes_last_and_from_above() -> None:
    made = space((0, 2), (4, 8), inherited=((4, 6), (7, 8)))
    order = []
    while (address := made.next_free(ALL)) is not None:
        order.append(address)
        made.use(row(address))
    assert order == [0, 1, 6, 7, 5, 4]


def test_bounds_hold_for_what_was_a_dead_peers_too() -> None:
    made = space((0, 8), inherited=((2, 8),))
    assert made.next_free(Range(3, 6)) == 5
    assert made.next_free(Range(1, 6)) == 1
    assert made.next_free(Range(8, 20)) is None
    used(made, 4, 5)
    assert made.next_free(Range(4, 6)) is None
    assert made.next_free(Range(2, 5)) == 3


@pytest.mark.parametrize(
    ("bounds", "biggest"),
    [
        ((0, 100), (10, 12)),
        ((0, 5), (3, 5)),
        ((0, 4), (3, 4)),
        ((0, 2), (0, 1)),
        ((4, 7), (6, 7)),
        ((1, 3), None),
        ((5, 6), None),
        ((8, 20), (10, 12)),
        ((0, 11), (6, 8)),
        ((20, 30), None),
    ],
)
def test_of_the_biggest_free_blocks_within_the_bounds_the_highest_is_found(
    bounds: tuple[int, int], biggest: tuple[int, int] | None
) -> None:
    made = space((0, 1), (3, 5), (6, 8), (10, 12))
    assert made.biggest_free(Range(*bounds)) == (Range(*biggest) if biggest else None)


def test_the_address_that_cools_longest_is_found_if_it_is_ours_and_within_the_bounds() -> None:
    made = used(space((0, 8)), 3, 5, 20)
    for now, address in enumerate((20, 5, 3)):
        made.cool(address, float(now))
    assert made.oldest_cooling(ALL) == 5
    assert made.oldest_cooling(Range(0, 5)) == 3
    assert made.oldest_cooling(Range(0, 3)) is None


def test_an_address_has_cooled_down_after_a_minute() -> None:
    made = used(space((0, 8)), 3, 4, 20)
    assert made.next_cooled_at() is None
    for now, address in ((10.0, 20), (11.0, 3), (12.0, 4)):
        assert made.cool(address, now) == replace(row(address), freed_at=now)
    assert COOLING_S == 60.0
    assert made.next_cooled_at() == 70.0
    assert made.cooled(69.9) == []
    assert made.cooled(71.0) == [20, 3]
    assert made.is_free(3)
    assert not made.is_free(20), "it is not ours"
    assert [at for at in (3, 4, 20) if made.is_cooling(at)] == [4]
    made.check()


def test_free_blocks_grow_together_again() -> None:
    made = used(space((0, 8)), 2, 3, 4)
    for address in (3, 2, 4):
        made.forget(address)
        made.check()
    assert made.biggest_free(ALL) == Range(0, 8)
    made.forget(5)
    made.check()
    assert made.free_count == 8


def test_changes_are_told_in_order_of_address() -> None:
    made = used(space((0, 8)), 5, 2)
    made.use(row(7))
    made.cool(5, 1.0)
    made.forget(7)
    made.use(row(1))
    written, gone = made.drain_changes()
    assert [one.address for one in written] == [1, 2, 5]
    assert gone == (7,)


@pytest.mark.parametrize("break_it", ["_free_count", "_starts", "_usable"])
def test_a_space_that_contradicts_itself_is_noticed(break_it: str) -> None:
    made = used(space((0, 8), (9, 12)), 3)
    setattr(made, break_it, {"_free_count": 3, "_starts": [0, 5, 9], "_usable": []}[break_it])
    with pytest.raises(AssertionError):
        made.check()


def test_nothing_is_kept_of_owners_that_are_gone() -> None:
    made = used(space((0, 8)), 1, 2)
    made.forget(1)
    made.forget(2)
    assert not made._by_owner
