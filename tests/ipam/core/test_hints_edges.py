"""When a free count is told, and when others' are passed on."""

import pytest

from ipam.core.hints import MAX_HINT, HintTeller
from ipam.core.messages import Hint
from ipam.core.ranges import Range
from ipam.core.space import Space
from tests.ipam.core.parts import A, B


def teller(free: int) -> tuple[HintTeller, Space]:
    space = Space()
    space.set_ranges([Range(0, free)] if free else [], [])
    return HintTeller(space), space


def test_the_first_hint_is_told_at_once_and_once() -> None:
    hints, _ = teller(80)
    assert hints.next_at() == 0.0
    assert hints.tell(None, 0.0) == Hint(1, 80)
    assert hints.next_at() is None
    assert hints.tell(Hint(1, 80), 100.0) is None


def test_a_hint_follows_the_last_one_even_if_that_was_told_before_a_restart() -> None:
    hints, _ = teller(80)
    assert hints.tell(Hint(7, 3), 0.0) == Hint(8, 80)


@pytest.mark.parametrize(("free", "is_told"), [(70, False), (69, True), (90, False), (91, True)])
def test_a_hint_is_told_again_when_it_is_wrong_by_more_than_an_eighth(
    free: int, is_told: bool
) -> None:
    hints, space = teller(80)
    hints.tell(None, 0.0)
    space.set_ranges([Range(0, free)], [])
    assert hints.tell(Hint(1, 80), 10.0) == (Hint(2, free) if is_told else None)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_that_there_is_a_free_address_or_none_any_more_is_told(before: int, after: int) -> None:
    hints, space = teller(before)
    assert hints.tell(None, 0.0) == Hint(1, before)
    space.set_ranges([Range(0, after)] if after else [], [])
    assert hints.tell(Hint(1, before), 10.0) == Hint(2, after)


def test_hints_are_told_at_most_every_ten_seconds() -> None:
    hints, space = teller(80)
    hints.tell(None, 3.0)
    space.set_ranges([], [])
    assert hints.next_at() == 13.0
    assert hints.tell(Hint(1, 80), 12.9) is None
    assert hints.tell(Hint(1, 80), 13.0) == Hint(2, 0)


def test_more_addresses_than_fit_on_the_wire_are_told_as_many_as_do() -> None:
    hints, _ = teller(2**64)
    assert hints.tell(None, 0.0) == Hint(1, MAX_HINT)
    assert MAX_HINT == 2**62


def test_what_others_tell_is_gathered_for_a_second_and_then_passed_on_once() -> None:
    hints, _ = teller(80)
    hints.tell(None, 0.0)
    hints.hear({A: Hint(1, 5)}, 2, 5.0)
    hints.hear({B: Hint(2, 6)}, 2, 5.5)
    assert hints.next_at() == 6.0
    assert hints.pass_on(5.9) == {}
    assert hints.pass_on(6.0) == {A: Hint(1, 5), B: Hint(2, 6)}
    assert hints.next_at() is None
    assert hints.pass_on(9.0) == {}


def test_no_news_are_not_passed_on() -> None:
    hints, _ = teller(80)
    hints.tell(None, 0.0)
    hints.hear({}, 2, 5.0)
    assert hints.next_at() is None


def test_what_is_due_first_counts() -> None:
    hints, space = teller(80)
    hints.tell(None, 0.0)
    space.set_ranges([], [])
    hints.hear({A: Hint(1, 5)}, 2, 5.0)
    assert hints.next_at() == 6.0
