"""What others wrote is passed on at once in calm, and together while much is written."""

import math
from ipaddress import ip_network

from ipam.core.ranges import Universe
from ipam.core.ring import Ring
from ipam.core.rumours import MAX_SPACING_S, SPACING_S, Rumours
from tests.ipam.core.parts import A, B

UNIVERSE = Universe.of(ip_network("10.32.0.0/24"))
RING = Ring.divide(b"12345678", UNIVERSE, [A, B])
FIRST, SECOND = RING.entries()[:2]


def test_in_calm_it_is_passed_on_at_once_and_not_to_whom_it_came_from() -> None:
    rumours = Rumours()
    rumours.hear(B, [FIRST], 5.0)
    assert rumours.next_at == 5.0
    assert rumours.take(RING, 1000, 5.0) == ([FIRST], B)
    assert rumours.next_at == math.inf
    assert rumours.take(RING, 1000, 6.0) == ((), None)


def test_what_comes_soon_after_that_waits_and_goes_together() -> None:
    rumours = Rumours()
    rumours.hear(B, [FIRST], 5.0)
    rumours.take(RING, 100, 5.0)
    rumours.hear(B, [FIRST], 5.05)
    rumours.hear(A, [SECOND, FIRST], 5.1)
    at = 5.0 + 100 * SPACING_S
    assert rumours.next_at == at
    assert rumours.take(RING, 100, 5.1) == ((), None)
    assert rumours.take(RING, 100, at) == ([FIRST, SECOND], None), "nobody told us both"


def test_the_wait_is_the_longer_the_more_peers_there_are_up_to_a_bound() -> None:
    for peers, spacing_s in ((2, 2 * SPACING_S), (4000, MAX_SPACING_S)):
        rumours = Rumours()
        rumours.hear(B, [FIRST], 5.0)
        rumours.take(RING, peers, 5.0)
        rumours.hear(B, [SECOND], 5.0)
        assert rumours.next_at == 5.0 + spacing_s


def test_an_entry_that_has_merged_into_another_meanwhile_is_not_told() -> None:
    rumours = Rumours()
    rumours.hear(B, [FIRST], 5.0)
    assert rumours.take(Ring(b"12345678", UNIVERSE), 2, 5.0) == ([], B)


def test_news_without_entries_is_nothing() -> None:
    rumours = Rumours()
    rumours.hear(B, [], 5.0)
    assert rumours.next_at == math.inf
