"""When a peer opens a ballot for the first ring, and what those who wait are told."""

from ipaddress import ip_network
from random import Random

import pytest

from ipam.core.election import Consensus, Election, InitMode, Observer, Seed, seed_ring_id
from ipam.core.paxos import NO_BALLOT, Ballot, Vote
from ipam.core.ranges import Universe
from ipam.core.replica import Replica
from ipam.core.ring import Ring
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import A, B, C, replica_without_ring

NOBODY: dict = {}  # type: ignore[type-arg]
WITH_B = {B: None}


def election(quorum: int = 2, init: InitMode | None = None) -> tuple[Election, Replica]:
    replica = replica_without_ring(quorum=quorum)
    return Election(replica, init or Consensus(2 * quorum - 1), Random(1)), replica


def make_ring(replica: Replica) -> None:
    replica.ring = Ring.divide(b"12345678", replica.universe, [A, B])


@pytest.mark.parametrize(("peers", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_quorum_is_more_than_half(peers: int, quorum: int) -> None:
    assert Consensus(peers).quorum == quorum


def test_seeds_name_their_ring_alike_in_any_order_and_for_ever() -> None:
    universe = Universe.of(ip_network("10.32.0.0/24"))
    assert seed_ring_id(universe, [A, B]) == seed_ring_id(universe, [B, A, B])
    assert seed_ring_id(universe, [A, B]).hex() == "2542a88f1587b905"
    assert seed_ring_id(universe, [A]) != seed_ring_id(universe, [A, B])
    assert seed_ring_id(Universe.of(ip_network("10.32.0.0/25")), [A, B]) != seed_ring_id(
        universe, [A, B]
    )


def test_who_wants_an_address_opens_a_ballot_at_once() -> None:
    one, _ = election()
    assert one.next_at(wanted=True) == 0.0
    assert one.handle_wanted(WITH_B, 10.0) == {A: Vote(Ballot(1, A), NO_BALLOT, None)}


def test_without_a_quorum_in_reach_no_ballot_is_opened_until_there_is_one() -> None:
    one, replica = election()
    assert one.handle_wanted(NOBODY, 10.0) == {}
    assert not replica.paxos.begun
    at = one.next_at(wanted=True)
    assert at is not None
    assert 12.0 < at < 14.0
    assert one.handle_wanted(WITH_B, 10.1)


def test_another_ballot_is_opened_when_the_first_has_not_moved_for_a_while() -> None:
    one, _ = election()
    one.handle_wanted(WITH_B, 10.0)
    at = one.next_at(wanted=True)
    assert at is not None
    assert 12.0 < at < 14.0
    assert one.handle_wanted(WITH_B, at - 0.01) == {}
    assert one.handle_wanted(WITH_B, at)[A].promised == Ballot(2, A)


def test_two_peers_wait_for_different_times() -> None:
    waits: set[float | None] = set()
    for seed in range(9):
        one = Election(replica_without_ring(quorum=2), Consensus(3), Random(seed))
        one.handle_wanted(WITH_B, 10.0)
        waits.add(one.next_at(wanted=True))
    assert len(waits) == 9
    assert all(at is not None and 12.0 < at < 14.0 for at in waits)


def test_a_ballot_that_moves_puts_off_the_next() -> None:
    one, replica = election()
    replica.paxos.join({B: Vote(Ballot(1, B), NO_BALLOT, None)})
    (vote,) = one.think(WITH_B, 20.0).values()
    assert vote.promised == Ballot(1, B)
    at = one.next_at(wanted=True)
    assert at is not None
    assert 22.0 < at < 24.0
    assert one.think(WITH_B, 30.0) == {}
    assert one.next_at(wanted=True) == at


def test_who_was_heard_of_gets_a_share() -> None:
    one, replica = election()
    replica.paxos.join({C: Vote(Ballot(1, A), NO_BALLOT, None)})
    replica.paxos.join({A: Vote(Ballot(1, A), NO_BALLOT, None)})
    many = tuple(peer_name(number) for number in range(10, 20))
    (vote,) = one.think(dict.fromkeys([*reversed(many), B]), 1.0).values()
    assert vote.proposal is not None
    assert vote.proposal.peers == (A, B, C, *many)
    assert len(vote.proposal.ring_id) == 8


def test_a_host_of_its_own_looks_for_peers_that_have_a_ring_before_it_makes_one() -> None:
    one, _ = election(quorum=1)
    one.look_around(5.0)
    assert one.handle_wanted(NOBODY, 4.9) == {}
    assert one.next_at(wanted=True) == 5.0
    assert one.reason(NOBODY).startswith("just started: looking for peers")
    votes = one.handle_wanted(NOBODY, 5.0)
    assert votes[A].proposal is not None
    assert not one.reason(NOBODY).startswith("just started")


def test_who_needs_others_votes_does_not_look_around() -> None:
    one, _ = election(quorum=2)
    one.look_around(5.0)
    assert one.handle_wanted(WITH_B, 1.0)
    assert not one.reason(NOBODY).startswith("just started")


def test_where_there_is_a_ring_nobody_votes() -> None:
    one, replica = election()
    make_ring(replica)
    replica.paxos.join({B: Vote(Ballot(1, B), NO_BALLOT, None)})
    assert one.handle_wanted(WITH_B, 1.0) == {}
    assert one.think(WITH_B, 1.0) == {}
    assert one.next_at(wanted=True) is None


@pytest.mark.parametrize("init", [Observer(), Seed((A, B))])
def test_who_does_not_take_part_does_not_vote(init: InitMode) -> None:
    one, replica = election(init=init)
    replica.paxos.join({B: Vote(Ballot(1, B), NO_BALLOT, None)})
    assert one.handle_wanted(WITH_B, 1.0) == {}
    assert one.think(WITH_B, 1.0) == {}
    assert one.next_at(wanted=True) is None
    assert not one.can_begin(WITH_B)
    assert "as an observer" in one.reason(WITH_B)


def test_while_nobody_wants_an_address_nothing_is_due() -> None:
    one, _ = election()
    assert one.next_at(wanted=False) is None
    assert one.can_begin(WITH_B)
    assert not one.can_begin(NOBODY)


@pytest.mark.parametrize(
    ("reachable", "text"), [((), "1 of 2 peers"), ((B,), "2 of 2 peers"), ((B, C), "2 of 2 peers")]
)
def test_the_reason_counts_the_peers_that_are_there(reachable: tuple, text: str) -> None:  # type: ignore[type-arg]
    one, _ = election()
    assert text in one.reason(dict.fromkeys(reachable))
