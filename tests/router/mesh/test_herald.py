"""When our own record changes: a loss at once, gains together, and what passes not at all."""

from dataclasses import replace
from math import inf

from router.mesh.herald import (
    BURST,
    CUT_OFF_S,
    LATER_S,
    LEISURE_S,
    MAX_LEISURE_S,
    MAX_SPACING_S,
    SPACING_S,
    Herald,
    Standing,
)
from router.mesh.records import Record
from router.mesh.topology import UNREACHABLE_S
from weavepy.base.names import PeerName, PeerUid, ShortId

SAID = Record(
    name=PeerName("02:00:00:00:00:01"),
    uid=PeerUid(1),
    version=1,
    nickname="us",
    short_id=ShortId(1),
    router_version="",
    addresses=(),
    control=0b0110,
    established=0b0110,
    outbound=0b0010,
)
MORE = replace(SAID, control=0b1110, established=0b1110)
NEW = 0b1000
"""The one that `MORE` has, and `SAID` has not."""


def said_at(
    herald: Herald,
    true: Record,
    now: float,
    peers: int = 100,
    lonely: int = NEW,
    cut_off: int = 0,
) -> float:
    herald.handle_change(SAID, true, Standing(lonely, cut_off), peers, now)
    return herald.next_deadline().at


def busy_herald(peers: int, now: float = 0.0) -> Herald:
    """One that has said as much as it may at once."""
    herald = Herald()
    for _ in range(BURST):
        herald.handle_said(peers, now)
    return herald


def test_a_lost_link_is_told_at_once_however_much_was_said_before() -> None:
    assert said_at(busy_herald(1000), replace(SAID, control=2, established=2), 0.1, 1000) == 0.1
    assert said_at(busy_herald(1000), replace(SAID, established=2), 0.1, 1000) == 0.1


def test_a_new_link_is_told_as_soon_as_its_overlay_works_too() -> None:
    assert said_at(Herald(), MORE, 0.0, peers=2) <= 0.01
    assert 0.1 <= said_at(Herald(), MORE, 0.0, peers=1000) <= 0.25


def test_many_new_links_are_told_together_the_rarer_the_larger_the_mesh() -> None:
    assert said_at(busy_herald(100), MORE, 0.5) == 100 * SPACING_S
    assert said_at(busy_herald(4000), MORE, 0.5, 4000) == MAX_SPACING_S


def test_a_mesh_of_a_thousand_says_little_in_a_long_storm() -> None:
    herald, said, now = Herald(), 0, 0.0
    while now < 60.0:
        herald.handle_change(SAID, MORE, Standing(NEW), 1000, now)
        if now >= herald.next_deadline().at:
            herald.handle_said(1000, now)
            said += 1
        now += 0.1
    assert 60 / MAX_SPACING_S <= said <= 60 / MAX_SPACING_S + BURST


def test_quiet_pays_for_a_burst_and_for_no_more() -> None:
    herald = busy_herald(1000)
    assert said_at(herald, MORE, 1000.0, 1000) < 1000.3
    for _ in range(BURST):
        herald.handle_said(1000, 1001.0)
    assert said_at(herald, MORE, 1001.1, 1000) == 1001.0 + MAX_SPACING_S


def test_that_a_router_is_upgraded_is_never_told_if_it_comes_back_soon() -> None:
    for peers in (2, 1000):
        herald = Herald()
        orphaned = replace(SAID, control=0b0010)
        assert said_at(herald, orphaned, 0.0, peers) == LATER_S
        assert said_at(herald, SAID, 3.0, peers) == inf


def test_another_change_does_not_put_off_what_is_due() -> None:
    herald = Herald()
    first = said_at(herald, MORE, 0.0, 1000)
    assert said_at(herald, replace(MORE, control=0b11110), 0.1, 1000) == first


def test_a_link_between_two_that_have_others_is_told_at_leisure_if_much_was_said() -> None:
    assert said_at(Herald(), MORE, 0.0, 1000, lonely=0) <= 0.25
    assert said_at(busy_herald(100), MORE, 0.5, lonely=0) == 100 * LEISURE_S
    assert said_at(busy_herald(4000), MORE, 0.5, 4000, lonely=0) == MAX_LEISURE_S


def test_a_link_that_others_need_is_not_held_up_by_one_that_can_wait() -> None:
    herald = busy_herald(1000)
    assert said_at(herald, MORE, 0.5, 1000, lonely=0) == MAX_LEISURE_S
    both = replace(MORE, control=0b11110)
    assert said_at(herald, both, 0.6, 1000, lonely=0b10000) == MAX_SPACING_S


def test_a_link_that_may_join_two_halves_is_told_in_time_unless_others_tell_of_one() -> None:
    herald = busy_herald(1000)
    assert said_at(herald, MORE, 0.5, 1000, lonely=0, cut_off=NEW) == 0.5 + CUT_OFF_S
    assert CUT_OFF_S < UNREACHABLE_S
    assert said_at(herald, MORE, 8.0, 1000, lonely=0, cut_off=0) == MAX_LEISURE_S


def test_many_losses_do_not_hold_up_a_gain_for_longer_than_a_spacing() -> None:
    herald = Herald()
    for _ in range(100):
        herald.handle_said(1000, 1.0)
    assert said_at(herald, MORE, 1.0, 1000) == 1.0 + MAX_SPACING_S
    assert said_at(herald, MORE, 1.0, 1000, lonely=0) == 1.0 + MAX_LEISURE_S
