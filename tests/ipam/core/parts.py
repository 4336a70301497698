"""The parts of one peer, without the rest of it: for tests of a single part."""

from ipaddress import ip_network

from ipam.core.effects import PersistedAddress
from ipam.core.ranges import Universe
from ipam.core.replica import Replica
from ipam.core.ring import Ring
from ipam.core.space import Space
from tests.ipam.core.mesh import peer_name

A, B, C, D = (peer_name(number) for number in (1, 2, 3, 4))


def replica_without_ring(universe: str = "10.32.0.0/24", quorum: int = 1) -> Replica:
    """That of `A`, known as host1; it knows the other names as well."""
    replica = Replica(A, "host1", Universe.of(ip_network(universe)), quorum)
    replica.nicknames |= {B: "host2", C: "host3", D: "host4"}
    return replica


def replica_of(owners: int, universe: str = "10.32.0.0/24") -> Replica:
    """With a ring in equal shares, of which `A` has the first."""
    replica = replica_without_ring(universe)
    names = [A, B, C, D][:owners]
    replica.ring = Ring.divide(b"12345678", replica.universe, names)
    return replica


def space_of(replica: Replica) -> Space:
    space = Space()
    assert replica.ring is not None
    space.set_ranges(replica.ring.ranges_of(A), replica.ring.contested())
    return space


def row(address: int, owner: str = "web") -> PersistedAddress:
    return PersistedAddress(address, owner, 24)
