"""Fences in the ring: the join stays a join, and what a fenced peer wrote last owns nothing."""

from hypothesis import given
from hypothesis import strategies as st

from ipam.core.ranges import Range, Universe
from ipam.core.ring import Entry, Fence, Ring
from tests.ipam.core.mesh import TestMesh, peer_name

UNIVERSE = Universe(0, 16, 4)
A, B, C = (peer_name(number) for number in (1, 2, 3))

peers = st.sampled_from([A, B, C])
entries = st.lists(
    st.builds(
        Entry,
        token=st.integers(0, 15),
        size=st.integers(1, 16),
        owner=peers,
        version=st.integers(1, 3),
        generation=st.integers(0, 1),
        epoch=st.integers(0, 2),
    ),
    max_size=8,
)
fences = st.dictionaries(peers, st.builds(Fence, st.integers(1, 3), peers), max_size=3)
Told = tuple[list[Entry], dict[str, Fence]]
told = st.tuples(entries, fences)


def ring_of(*parts: Told) -> Ring:
    ring = Ring(b"ring", UNIVERSE)
    for some, fenced in parts:
        ring.join(some)
        ring.join_fences(fenced)  # type: ignore[arg-type]  # names are str
    return ring


def state(ring: Ring) -> tuple[object, ...]:
    return (ring.entries(), sorted(ring.fences().items()), ring.digest(), ring.live())


@given(told, told, told)
def test_the_order_in_which_things_are_heard_does_not_matter(a: Told, b: Told, c: Told) -> None:
    once = state(ring_of(a, b, c))
    assert state(ring_of(c, a, b)) == once
    assert state(ring_of(b, c, a, c, b)) == once


@given(told)
def test_whoever_hears_the_same_sees_the_same_owners(a: Told) -> None:
    ring, other = ring_of(a), ring_of((list(reversed(a[0])), a[1]))
    for address in range(16):
        assert ring.covering(address) == other.covering(address)


@given(told)
def test_nothing_of_a_lower_epoch_shadows_or_survives_whole_under_a_higher(a: Told) -> None:
    ring = ring_of(a)
    live = {entry.token for entry in ring.live()}
    for entry in ring.entries():
        above: set[int] = set()
        for other in ring.entries():
            if other.epoch > entry.epoch:
                for piece in UNIVERSE.unroll(other.token, other.size):
                    above |= set(range(piece.start, piece.end))
        own = {UNIVERSE.wrap(entry.token + step) for step in range(entry.size)}
        assert (entry.token in live) == (not own <= above)


def test_two_peers_that_fenced_each_other_swap_and_nothing_hangs() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.join_fences({A: Fence(1, B), B: Fence(1, A)})
    assert ring.owners() == {A: 8, B: 8}
    assert [entry.owner for entry in ring.live()] == [B, A]


def test_a_late_write_of_a_fenced_peer_owns_nothing() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    old = Ring.divide(b"ring", UNIVERSE, [A, B])
    late = old.donate(B, 12, 4, C, generation=1)
    ring.join_fences({B: Fence(1, A)})
    ring.stamp(A, generation=1)
    ring.donate(A, 10, 4, C, generation=1)
    ring.join(late)
    ring.check_tiles()
    assert ring.ranges_of(A) == [Range(0, 10), Range(14, 16)]
    assert ring.ranges_of(C) == [Range(10, 14)]
    assert not ring.contested()


def test_who_returns_can_be_given_space_again() -> None:
    ring = Ring.divide(b"ring", UNIVERSE, [A, B])
    ring.join_fences({B: Fence(1, A)})
    assert ring.owners() == {A: 16}
    ring.stamp(A, generation=1)
    (entry, rest) = ring.donate(A, 4, 2, B, generation=1)[1:]
    assert entry.epoch == 1
    assert rest.epoch == 0
    assert ring.owners() == {A: 14, B: 2}
    ring.check_tiles()


def test_without_a_ring_nothing_is_missing_but_a_request() -> None:
    mesh = TestMesh(3)
    for peer in mesh.peers.values():
        status = peer.status(0.0)
        assert status.state == "idle"
        assert status.reason == "no ring yet: the first request for an address makes it"
    mesh.partition((0,), (1, 2))
    states = [peer.status(0.0).state for peer in mesh.peers.values()]
    assert states == ["waiting", "idle", "idle"]
    assert "1 of 2 peers needed" in mesh.peers[mesh.names[0]].status(0.0).reason


def test_a_big_part_is_handed_over_in_pieces() -> None:
    mesh = TestMesh(2, universe="10.0.0.0/16")
    mesh.prime(0)
    mesh.run(8)
    giver = mesh.peers[mesh.names[0]]
    ring = giver.ring
    assert ring is not None
    for entry in ring.owned_by(mesh.names[0]):
        for step in range(0, 18_000, 2):
            ring.donate(mesh.names[0], entry.token + step, 1, mesh.names[0], 1)
    assert len(ring) > 10_000
    mesh.perform(mesh.names[0], giver.hand_over(mesh.names[1], mesh.now))
    mesh.deliver()
    mesh.run(3)
    assert giver.handed_over
    taker = mesh.peers[mesh.names[1]].ring
    assert taker is not None
    assert taker.owners() == {mesh.names[1]: 2**16}
