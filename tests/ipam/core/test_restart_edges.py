"""When a restarted peer goes on, step by step."""

from random import Random

import pytest

from ipam.core.restart import RestartCheck
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import A, B, C, D

NOBODY: dict = {}  # type: ignore[type-arg]


def begun(*owners: str, now: float = 100.0) -> RestartCheck:
    check = RestartCheck(Random(1))
    check.begin(owners, True, now)  # type: ignore[arg-type]
    return check


def reach(*peers: str) -> dict:  # type: ignore[type-arg]
    return dict.fromkeys(peers)


def test_who_has_not_begun_has_passed() -> None:
    check = RestartCheck(Random(1))
    assert check.passed
    assert check.next_at() is None
    assert check.ask(reach(B), 0.0) == ()


@pytest.mark.parametrize(
    ("owners", "expects_peers", "passed"),
    [((), False, True), ((B,), False, False), ((), True, False)],
)
def test_where_nobody_could_know_better_it_is_over_at_once(
    owners: tuple,
    expects_peers: bool,
    passed: bool,  # type: ignore[type-arg]
) -> None:
    check = RestartCheck(Random(1))
    check.begin(owners, expects_peers, 0.0)
    assert check.passed is passed


def test_without_anybody_in_reach_it_goes_on_after_five_seconds() -> None:
    check = begun(B)
    assert check.ask(NOBODY, 100.0) == ()
    assert check.next_at() == 105.0
    assert check.ask(NOBODY, 104.9) == ()
    assert not check.passed
    assert check.ask(NOBODY, 105.0) == ()
    assert check.passed
    assert check.next_at() is None


def test_who_can_be_reached_is_asked_four_times_a_second_for_five_seconds_more() -> None:
    check = begun(B)
    assert list(check.ask(reach(B), 102.0)) == [B]
    assert check.next_at() == 102.25
    assert check.ask(reach(B), 102.2) == ()
    assert list(check.ask(reach(B), 102.25)) == [B]
    assert list(check.ask(reach(B), 106.9)) == [B]
    assert check.next_at() == 107.0
    assert not check.passed
    check.ask(reach(B), 107.0)
    assert check.passed


def test_one_answer_is_enough_if_all_who_were_asked_have_answered() -> None:
    check = begun(B)
    check.ask(reach(B), 100.0)
    check.handle_heard(B)
    assert check.ask(reach(B), 100.1) == ()
    assert check.passed


def test_those_who_have_not_answered_are_waited_for_and_asked_again() -> None:
    check = begun(B, C)
    assert sorted(check.ask(reach(B, C), 100.0)) == [B, C]
    check.handle_heard(B)
    assert list(check.ask(reach(B, C), 100.25)) == [C]
    assert not check.passed
    check.ask(reach(B, C), 105.0)
    assert check.passed, "the time is up, and one has answered"


def test_who_went_away_is_not_waited_for() -> None:
    check = begun(B, C)
    check.ask(reach(B, C), 100.0)
    check.handle_heard(B)
    assert check.ask(reach(B), 100.1) == ()
    assert check.passed


def test_when_all_who_were_asked_are_away_only_the_end_is_waited_for() -> None:
    check = begun(B)
    check.ask(reach(B), 101.0)
    assert check.ask(NOBODY, 101.5) == ()
    assert check.next_at() == 106.0


def test_owners_of_ranges_are_asked_before_others() -> None:
    check = begun(B)
    assert list(check.ask(reach(A, B, C), 100.0)) == [B]
    others = begun(C)
    assert sorted(others.ask(reach(A, B), 100.0)) == [A, B]


def test_at_most_sixteen_are_asked() -> None:
    names = [peer_name(number) for number in range(30)]
    asked = begun(*names).ask(reach(*names), 100.0)
    assert len(asked) == 16
    assert len(set(asked)) == 16


def test_a_promise_to_another_keeps_it_waiting_until_that_peer_knows_the_outcome() -> None:
    check = begun(B)
    check.ask(reach(B), 100.0)
    check.handle_promised(B, 103.0)
    assert list(check.promised_by) == [B]
    check.ask(reach(B), 105.0)
    assert not check.passed
    assert check.next_at() == 105.5
    check.handle_heard(B)
    assert not check.promised_by
    check.ask(reach(B), 105.1)
    assert check.passed


def test_a_promise_that_nobody_explains_holds_it_up_for_five_seconds() -> None:
    check = begun(B)
    check.ask(reach(B), 100.0)
    check.handle_promised(B, 103.0)
    check.ask(reach(B), 107.9)
    assert not check.passed
    check.ask(reach(B), 108.0)
    assert check.passed


def test_what_is_heard_after_it_is_over_changes_nothing() -> None:
    check = RestartCheck(Random(1))
    check.handle_promised(B, 0.0)
    check.handle_heard(C)
    assert not check.promised_by
    check.begin([B, C], True, 100.0)
    check.ask(reach(B, C), 100.0)
    check.ask(reach(B, C), 100.1)
    assert not check.passed


def test_a_new_check_forgets_what_the_last_one_heard() -> None:
    check = begun(B)
    check.ask(reach(B), 100.0)
    check.handle_promised(C, 100.0)
    check.handle_heard(B)
    check.begin([C], True, 200.0)
    assert not check.promised_by
    assert list(check.ask(reach(B, C), 200.0)) == [C]
    assert not check.passed


def test_a_new_check_asks_at_once_even_if_somebody_was_just_asked() -> None:
    check = begun(B)
    check.ask(reach(B), 100.0)
    check.handle_heard(B)
    check.ask(reach(B), 100.1)
    assert check.passed
    check.handle_copied([B], 100.1)
    assert list(check.ask(reach(B), 100.1)) == [B]


def test_beside_a_copy_even_who_knows_no_other_owner_waits() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([], 100.0)
    assert not check.passed


def test_beside_a_copy_of_ourself_being_alone_proves_nothing_for_ten_minutes() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([B], 100.0)
    assert not check.passed
    assert check.is_copied(699.9)
    assert not check.is_copied(700.0)
    check.ask(reach(B), 100.0)
    assert check.ask(reach(B), 105.0) == ()
    assert list(check.ask(reach(B), 105.0)) == [B], "from the beginning"
    assert check.next_at() == 105.25
    for now in range(110, 700, 5):
        check.ask(reach(B), float(now))
        assert not check.passed, now
    check.ask(reach(B), 705.0)
    check.ask(reach(B), 710.0)
    assert check.passed
    assert not check.is_copied(0.0)


def test_beside_a_copy_of_ourself_a_peers_word_is_enough() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([B], 100.0)
    check.ask(reach(B), 100.0)
    check.handle_heard(B)
    check.ask(reach(B), 100.1)
    assert check.passed
    check.begin([B], True, 200.0)
    assert not check.is_copied(200.0), "that the other lived is over"


def test_hearing_of_the_copy_again_does_not_begin_the_check_anew() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([B], 100.0)
    check.ask(reach(B), 100.0)
    check.handle_heard(B)
    check.handle_copied([B], 100.1)
    check.ask(reach(B), 100.2)
    assert check.passed


@pytest.mark.parametrize(
    ("answered", "reason"), [((), "waiting for 2 peers"), ((B,), "waiting for 1 peers")]
)
def test_the_reason_says_how_many_have_not_answered(answered: tuple, reason: str) -> None:  # type: ignore[type-arg]
    check = begun(B, C)
    assert "looking for peers" in check.reason(100.0)
    check.ask(reach(B, C), 100.0)
    for peer in answered:
        check.handle_heard(peer)
    assert reason in check.reason(100.0)


def test_beside_a_copy_who_is_alone_looks_around_every_five_seconds_and_ends_in_time() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([B], 100.0)
    for now in range(105, 700, 5):
        check.ask(NOBODY, float(now))
        assert not check.passed
        assert check.next_at() == now + 5.0
    check.ask(NOBODY, 700.0)
    assert check.passed


def test_beside_a_copy_who_answers_nothing_is_followed_by_others() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([B, C], 100.0)
    check.ask(reach(B), 100.0)
    check.ask(reach(B), 105.0)
    assert list(check.ask(reach(C), 105.0)) == [C]


def test_of_many_owners_just_more_than_half_are_asked() -> None:
    names = [peer_name(number) for number in range(10, 50)]
    check = begun(*names)
    assert len(check.ask(reach(*names), 100.0)) == 21
    assert check.ask(reach(*names), 100.1) == ()


def test_owners_that_come_to_be_reachable_are_asked_at_once_within_the_same_time() -> None:
    check = begun(B, C)
    assert list(check.ask(reach(B), 102.0)) == [B]
    assert list(check.ask(reach(B, C), 102.1)) == [B, C]
    assert check.ask(reach(B, C), 102.2) == ()
    assert check.next_at() == 102.35
    check.ask(reach(B, C), 107.0)
    assert check.passed


def test_others_are_not_asked_beside_owners() -> None:
    check = begun(B)
    check.ask(reach(B), 100.0)
    assert check.ask(reach(A, B), 100.1) == ()
    alone = begun(B)
    assert list(alone.ask(reach(A), 100.0)) == [A]
    assert list(alone.ask(reach(A, C), 100.3)) == [A], "one who owns nothing is enough to wait for"
    assert sorted(alone.ask(reach(A, B), 100.4)) == [A, B]


@pytest.mark.parametrize(("owners", "passed"), [((B, C), True), ((B, C, D), False)])
def test_while_those_who_were_not_heard_might_be_a_majority_it_goes_on(
    owners: tuple,  # type: ignore[type-arg]
    passed: bool,
) -> None:
    check = begun(*owners)
    check.ask(reach(B), 100.0)
    check.handle_heard(B)
    assert check.ask(reach(B), 100.1) == ()
    assert check.passed is passed
    if not passed:
        assert "looking for more of the owners" in check.reason(100.1)
        assert check.next_at() == 105.0
        check.ask(reach(B), 105.0)
        assert check.passed


def test_beside_a_copy_who_did_not_answer_in_time_is_not_waited_for_by_name() -> None:
    check = RestartCheck(Random(1))
    check.handle_copied([B], 100.0)
    check.ask(reach(B), 100.0)
    check.ask(NOBODY, 696.0)
    assert "looking for peers" in check.reason(700.5)
