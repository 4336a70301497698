"""Whom a search for space asks, in which order, and when it gives up."""

from random import Random

from ipam.core.donors import DonorSearch, Stage
from ipam.core.ranges import Range
from tests.ipam.core.parts import A, B, C

ALL = dict.fromkeys([A, B, C])


def search() -> DonorSearch:
    return DonorSearch(Range(0, 8))


def choose(one: DonorSearch, now: float, donors: dict | None = None, reachable=ALL):  # type: ignore[no-untyped-def, type-arg]
    return one.choose({A: 1, B: 5, C: 2} if donors is None else donors, reachable, Random(0), now)


def test_who_has_the_most_is_asked_first_then_the_next() -> None:
    one = search()
    asked = []
    for number in range(3):
        donor = choose(one, 1.0)
        asked.append(donor)
        one.ask(donor, number, 1.0)
        one.handle_refusal()
    assert asked == [B, C, A]


def test_of_those_with_the_most_any_is_asked() -> None:
    donors = {A: 5, B: 5, C: 2}
    asked = {search().choose(donors, ALL, Random(seed), 0.0) for seed in range(20)}
    assert asked == {A, B}
    for seed in range(9):
        order = {B: 5, C: 2, A: 5}
        one = search().choose(donors, ALL, Random(seed), 0.0)
        assert one == search().choose(order, ALL, Random(seed), 0.0)


def test_an_answer_is_awaited_for_two_seconds() -> None:
    one = search()
    one.ask(B, 7, 10.0)
    assert (one.asked, one.ask_id, one.waits) == (B, 7, True)
    assert choose(one, 11.9) is None
    assert one.waits
    assert choose(one, 12.0) == C
    assert list(one.silent) == [B]


def test_who_has_refused_is_asked_once_more_when_all_have() -> None:
    one = search()
    donors = {A: 1}
    assert choose(one, 0.0, donors) == A
    one.ask(A, 1, 0.0)
    one.handle_refusal()
    assert choose(one, 0.0, donors) is None
    assert one.stage is Stage.PRESSED
    assert choose(one, 0.0, donors) == A
    one.ask(A, 2, 0.0)
    one.handle_refusal()
    assert choose(one, 0.0, donors) is None
    assert one.stage is Stage.ENDED
    assert not one.waits
    assert list(one.refused) == [A]


def test_without_anybody_to_ask_a_search_ends() -> None:
    one = search()
    assert choose(one, 0.0, {}) is None
    assert choose(one, 0.0, {}) is None
    assert one.stage is Stage.ENDED


def test_a_search_rests_for_two_seconds_if_somebody_could_not_be_asked() -> None:
    one = search()
    donors = {C: 2, A: 1}
    reachable: dict = {}  # type: ignore[type-arg]
    for _ in range(2):
        assert choose(one, 5.0, donors, reachable) is None
    assert one.stage is Stage.RESTING
    assert one.waits
    assert one.until == 7.0
    assert one.unreachable == [A, C]
    assert choose(one, 6.9, donors) is None
    assert one.stage is Stage.RESTING
    assert choose(one, 7.0, donors) == C
    assert one.stage is Stage.FREE


def test_a_search_rests_if_somebody_was_silent() -> None:
    one = search()
    one.ask(A, 1, 0.0)
    for _ in range(2):
        assert choose(one, 2.0, {A: 1}) is None
    assert one.stage is Stage.RESTING


def test_a_restart_asks_everybody_again() -> None:
    one = search()
    one.ask(B, 1, 0.0)
    assert choose(one, 2.0) == C
    one.ask(C, 2, 2.0)
    one.handle_refusal()
    one.ask(A, 3, 2.0)
    one.restart()
    assert not one.waits
    assert (one.refused, one.silent) == ({}, {})
    assert choose(one, 2.0) == B
