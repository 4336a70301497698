"""One proposal is decided, whatever the network does."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.core.paxos import NO_BALLOT, Ballot, Paxos, Proposal, Vote
from tests.ipam.core.mesh import TestMesh, peer_name

NAMES = [peer_name(number) for number in range(1, 6)]


@given(
    count=st.sampled_from([3, 5]),
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.7),
    crashes=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_at_most_one_proposal_is_ever_decided(
    count: int, seed: int, loss: float, crashes: bool
) -> None:
    rng = Random(seed)
    nodes = {name: Paxos(name, count // 2 + 1) for name in NAMES[:count]}
    decided: set[Proposal] = set()
    in_flight: list[dict[str, Vote]] = []
    for step in range(300):
        node = nodes[rng.choice(NAMES[:count])]
        proposal = Proposal(step.to_bytes(2, "big"), (node.ourself,))
        if rng.random() < 0.1:
            node.open_ballot()
        elif in_flight:
            node.join(in_flight.pop(rng.randrange(len(in_flight))))  # type: ignore[arg-type]
        node.think(lambda proposal=proposal: proposal)  # type: ignore[misc]
        if rng.random() >= loss:
            in_flight.append(dict(node.votes))  # type: ignore[arg-type]
        if crashes and rng.random() < 0.05:
            back = Paxos(node.ourself, node.quorum)
            back.join({node.ourself: node.votes[node.ourself]} if node.votes else {})
            nodes[node.ourself] = back
        found = nodes[node.ourself].decided()
        if found is not None:
            decided.add(found)
    assert len(decided) <= 1


def test_a_later_ballot_repeats_what_an_earlier_one_may_have_decided() -> None:
    first, second, third = (Paxos(name, 2) for name in NAMES[:3])
    mine = Proposal(b"first", (NAMES[0],))
    second.join(first.open_ballot())
    second.think(lambda: mine)
    first.join(second.votes)
    first.think(lambda: mine)
    second.join(first.votes)
    second.think(lambda: mine)
    assert second.decided() == mine
    third.join({NAMES[1]: second.votes[NAMES[1]]})
    second.join(third.open_ballot())
    second.think(lambda: mine)
    third.join(second.votes)
    third.think(lambda: Proposal(b"third", (NAMES[2],)))
    assert third.votes[NAMES[2]].proposal == mine


def test_a_vote_only_grows() -> None:
    old = Vote(Ballot(1, NAMES[0]), NO_BALLOT, None)
    new = Vote(Ballot(1, NAMES[0]), Ballot(1, NAMES[0]), Proposal(b"x", (NAMES[0],)))
    assert old.join(new) == new.join(old) == new


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_peers_agree_on_one_ring_under_loss_and_reordering(count: int, seed: int) -> None:
    mesh = TestMesh(count, loss=0.3, reorder=True, seed=seed)
    requests = [mesh.allocate(at, f"c{at}", timeout_s=60) for at in range(count)]
    mesh.run(40)
    rings = {peer.ring.ring_id for peer in mesh.peers.values() if peer.ring}
    assert len(rings) == 1
    assert None not in [mesh.given(request) for request in requests]
    mesh.check_no_duplicates()


@pytest.mark.parametrize("seed", range(4))
def test_a_majority_decides_and_the_rest_learns_it_after_healing(seed: int) -> None:
    mesh = TestMesh(5, seed=seed)
    mesh.partition([0, 1], [2, 3, 4])
    few = mesh.allocate(0, "a", timeout_s=60)
    many = mesh.allocate(2, "b", timeout_s=60)
    mesh.run(5)
    assert mesh.given(few) is None
    assert mesh.given(many) is not None
    mesh.heal()
    mesh.run(5)
    assert mesh.given(few) is not None
    mesh.check_converged()


def test_a_vote_is_on_disk_and_binds_after_a_restart() -> None:
    mesh = TestMesh(3)
    mesh.partition([0], [1], [2])
    mesh.allocate(0, "a", timeout_s=60)
    mesh.partition([0, 1], [2])
    mesh.run(0.5)
    mesh.restart(mesh.names[1])
    mesh.run(5)
    mesh.heal()
    mesh.run(5)
    mesh.check_converged()
