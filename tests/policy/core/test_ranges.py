"""Sets of whole numbers as ranges, at their edges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policy.core.ranges import contains, union, without

numbers = st.integers(0, 30)
spans = st.tuples(numbers, numbers).map(lambda ends: (min(ends), max(ends)))


def members(*ranges: tuple[int, int]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def test_ranges_that_touch_become_one() -> None:
    assert union([(3, 4), (1, 2), (6, 9), (7, 8)]) == ((1, 4), (6, 9))


def test_holes_take_their_ends_away_and_nothing_else() -> None:
    assert without((5, 10), [(1, 5), (10, 12)]) == ((6, 9),)
    assert without((5, 10), [(1, 2), (7, 7), (20, 30)]) == ((5, 6), (8, 10))
    assert without((5, 10), [(5, 6)]) == ((7, 10),)
    assert without((5, 10), [(4, 11)]) == ()


@given(st.lists(spans))
def test_a_union_has_what_any_has_in_the_shortest_form(ranges: list[tuple[int, int]]) -> None:
    joined = union(ranges)
    assert members(*joined) == members(*ranges)
    assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(joined))


@given(spans, st.lists(spans), numbers)
def test_what_is_left_is_the_whole_without_its_holes(
    whole: tuple[int, int], holes: list[tuple[int, int]], number: int
) -> None:
    left = without(whole, holes)
    assert members(*left) == members(whole) - members(*holes)
    assert contains(left, number) == (number in members(*left))
