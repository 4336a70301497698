"""Who must be heard after a restart before this host believes its own disk."""

from random import Random

from ipam.core.restart import GRACE_S, RestartCheck
from tests.ipam.core.mesh import peer_name

OWNERS = [peer_name(number) for number in (1, 2, 3)]
"""The others: with ourself, the ring has four owners."""


def begun() -> RestartCheck:
    check = RestartCheck(Random(1))
    check.begin(OWNERS, True, 0.0)
    return check


def test_one_of_three_others_cannot_vouch_for_the_two_that_are_out_of_reach() -> None:
    check = begun()
    assert check.ask({OWNERS[0]: None}, 1.0) == [OWNERS[0]]
    check.handle_heard(OWNERS[0])
    assert not check.ask({OWNERS[0]: None}, 1.1)
    assert not check.passed
    assert "looking for more of the owners" in check.reason(1.1)


def test_who_comes_to_be_reachable_later_is_asked_at_once() -> None:
    check = begun()
    check.ask({OWNERS[0]: None}, 1.0)
    check.handle_heard(OWNERS[0])
    both = dict.fromkeys(OWNERS[:2])
    assert check.ask(both, 1.1) == [OWNERS[1]]
    check.handle_heard(OWNERS[1])
    assert check.ask(both, 1.2) == ()
    assert check.passed


def test_a_host_that_reaches_only_few_owners_goes_on_when_the_time_is_up() -> None:
    check = begun()
    check.ask({OWNERS[0]: None}, 1.0)
    check.handle_heard(OWNERS[0])
    check.ask({OWNERS[0]: None}, 1.1)
    assert check.next_at() == 1.0 + GRACE_S
    check.ask({OWNERS[0]: None}, 1.0 + GRACE_S)
    assert check.passed


def test_of_many_owners_more_than_half_are_asked() -> None:
    owners = [peer_name(number) for number in range(100)]
    check = RestartCheck(Random(1))
    check.begin(owners, True, 0.0)
    asked = check.ask(dict.fromkeys(owners), 0.0)
    assert len(asked) == 51
    for peer in asked:
        check.handle_heard(peer)
    check.ask(dict.fromkeys(owners), 0.1)
    assert check.passed
