"""What peers tell each other of a large ring, and how much of it."""

from ipaddress import ip_network
from random import Random

from ipam.core.messages import Repair, decode_message
from ipam.core.ranges import Universe
from ipam.core.replica import Replica
from ipam.core.ring import Entry, Ring
from tests.ipam.core.mesh import TestMesh, peer_name

NETWORK = "10.0.0.0/8"
UNIVERSE = Universe.of(ip_network(NETWORK))
BUDGET_BYTES = 2048


def ring_bytes(owners: int, entries: int) -> bytes:
    """Return a stored ring in which many donations have happened."""
    rng = Random(1)
    replica = Replica(peer_name(1), "host1", UNIVERSE, 1)
    names = [peer_name(number) for number in range(1, owners + 1)]
    replica.nicknames.update({name: f"host-{at}.example" for at, name in enumerate(names)})
    replica.ring = Ring(b"12345678", UNIVERSE)
    cuts = sorted(rng.sample(range(1, UNIVERSE.size), entries - 1))
    for start, end in zip([0, *cuts], [*cuts, UNIVERSE.size], strict=True):
        owner = rng.choice(names)
        replica.ring.join([Entry(UNIVERSE.first + start, end - start, owner, 3, 2)])
    replica.ring.check_tiles()
    return replica.snapshot()


def large_mesh() -> TestMesh:
    mesh = TestMesh(2, universe=NETWORK)
    stored = ring_bytes(owners=200, entries=10_000)
    for name in mesh.names:
        mesh.disks[name].ring = stored
        mesh.restart(name)
    mesh.run(15)
    mesh.bytes_sent = 0
    return mesh


def test_equal_rings_send_nothing() -> None:
    mesh = large_mesh()
    mesh.gossip_round()
    assert mesh.bytes_sent == 0


def test_a_change_in_a_ring_of_10_000_entries_is_told_in_less_than_2_kib() -> None:
    mesh = large_mesh()
    ring = mesh.peers[mesh.names[0]].ring
    assert ring is not None
    theirs = next(entry for entry in ring.owned_by(mesh.names[1]) if entry.size > 10)
    where = ring.universe.text(theirs.token + 5)
    assert mesh.given(mesh.claim(0, "a", where)) == where
    assert 0 < mesh.bytes_sent < BUDGET_BYTES
    mesh.check_converged()


def test_a_change_that_was_lost_is_found_and_mended_in_less_than_2_kib() -> None:
    mesh = large_mesh()
    mesh.partition([0], [1])
    ring = mesh.peers[mesh.names[0]].ring
    assert ring is not None
    mine = next(entry for entry in ring.owned_by(mesh.names[0]) if entry.size > 10)
    ring.donate(mesh.names[0], mine.token + 5, 1, peer_name(3), 9)
    mesh.partition([0, 1])
    digest = mesh.peers[mesh.names[0]].digest()
    mesh.gossip_round()
    assert mesh.bytes_sent + len(digest) < BUDGET_BYTES
    mesh.check_converged()


def test_a_peer_without_anything_gets_a_large_ring_in_bounded_pieces() -> None:
    mesh = TestMesh(2, universe=NETWORK)
    mesh.partition([0], [1])
    mesh.disks[mesh.names[0]].ring = ring_bytes(owners=50, entries=10_000)
    mesh.restart(mesh.names[0])
    peer = mesh.peers[mesh.names[0]]
    piece = peer.answer(mesh.peers[mesh.names[1]].digest())
    assert piece is not None
    assert len(piece) < 128 * 1024
    mesh.heal()
    mesh.check_converged()


def test_digest_is_short_and_answers_to_nonsense_are_the_ring() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    peer = mesh.peers[mesh.names[0]]
    assert len(peer.digest()) < 1024
    for nonsense in (b"", b"R", b"nonsense", peer.digest()[:-1]):
        answer = peer.answer(nonsense)
        assert answer is not None


def test_slices_that_do_not_exist_are_ignored() -> None:
    mesh = TestMesh(2)
    mesh.prime(0)
    replica = Replica(peer_name(1), "host1", mesh.peers[mesh.names[0]].universe, 1)
    assert replica.in_slices([(900, 3), (-1, 0)]) == []
    assert isinstance(decode_message(b"\x93\x08\xc4\x00\x90"), Repair)
