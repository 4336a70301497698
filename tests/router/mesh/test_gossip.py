"""Whom to tell, and when to compare."""

from collections import Counter
from random import Random

import pytest

from router.mesh.gossip import (
    DIGEST_NEIGHBOURS,
    FEW_NEIGHBOURS,
    ROUND_JITTER_S,
    ROUND_S,
    WELCOME_S,
    Gossip,
    fanout,
    weights_of,
)
from weavepy.base.names import PeerName

NAMES = [PeerName(number.to_bytes(6, "big").hex(":")) for number in range(100)]


@pytest.mark.parametrize(("peers", "told"), [(1, 2), (2, 2), (4, 4), (16, 8), (1024, 8)])
def test_about_twice_the_logarithm_of_the_peers_and_at_most_eight_are_told(
    peers: int, told: int
) -> None:
    assert fanout(peers) == told


def test_a_few_neighbours_are_all_told() -> None:
    gossip = Gossip(Random(1), 0.0)
    assert gossip.audience(dict.fromkeys(NAMES[:4], 1), 4) == NAMES[:4]
    assert gossip.audience({}, 4) == []


def test_of_many_neighbours_some_are_told_and_each_at_most_once() -> None:
    audience = Gossip(Random(1), 0.0).audience(dict.fromkeys(NAMES, 1), 100)
    assert len(audience) == len(set(audience)) == fanout(100)


def test_a_neighbour_that_leads_to_many_is_told_more_often() -> None:
    gossip = Gossip(Random(1), 0.0)
    weights = dict.fromkeys(NAMES, 1) | {NAMES[0]: 50}
    times = Counter(name for _ in range(200) for name in gossip.audience(weights, 100))
    assert times[NAMES[0]] > 190
    assert all(times[name] > 0 for name in NAMES)


def test_the_weight_of_a_neighbour_is_the_number_of_peers_behind_it() -> None:
    a, b, c, d = NAMES[:4]
    assert weights_of({a: a, b: a, c: a, d: d}) == {a: 3, d: 1}


def test_rounds_come_every_ten_seconds_with_jitter() -> None:
    gossip = Gossip(Random(1), 0.0)
    neighbours = dict.fromkeys(NAMES, 1)
    now = 0.0
    for _ in range(50):
        at = gossip.next_deadline().at
        assert ROUND_S - ROUND_JITTER_S <= at - now <= ROUND_S + ROUND_JITTER_S
        assert gossip.round_partners(neighbours, at - 0.01) == []
        assert len(gossip.round_partners(neighbours, at)) == DIGEST_NEIGHBOURS
        now = at


def test_digests_are_compared_at_once_with_the_first_neighbours_and_then_a_little_later() -> None:
    gossip = Gossip(Random(1), 0.0)
    for others, name in enumerate(NAMES[:10]):
        gossip.welcome(name, others, 1.0)
    assert gossip.next_deadline().at == 1.0
    assert gossip.welcomed(NAMES, 1.0) == NAMES[:FEW_NEIGHBOURS]
    assert gossip.next_deadline().at == 1.0 + WELCOME_S
    assert gossip.welcomed(NAMES, 1.5) == []
    gone = [name for name in NAMES if name != NAMES[5]]
    found = gossip.welcomed(gone, 1.0 + WELCOME_S)
    assert found == [name for name in NAMES[FEW_NEIGHBOURS:10] if name != NAMES[5]]
    assert gossip.welcomed(NAMES, 9.0) == []
    assert gossip.next_deadline().at >= ROUND_S - ROUND_JITTER_S
