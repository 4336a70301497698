"""How a ring grows while hosts give space back and forth; the real cores, no network.

Every twenty minutes all containers end, and each host starts another number of new ones, together
on half of all addresses, so that space has to move. Time passes in steps of half a minute; nothing
is lost.
"""

from dataclasses import dataclass
from ipaddress import ip_network
from random import Random
from unittest.mock import patch

from ipam.core import compactor
from ipam.core.ipam import Ipam
from tests.ipam.core.mesh import TestMesh

CHANGE_EVERY_S = 1200.0
COOLED_S = 90.0
STEP_S = 30.0
GOSSIP_EVERY_S = 90.0


@dataclass(frozen=True)
class Growth:
    entries: tuple[int, ...]
    """Before each change."""
    containers: int


def growth(changes: int, merging: bool, hosts: int = 5, universe: str = "10.32.0.0/23") -> Growth:
    after_s = compactor.COMPACT_AFTER_S if merging else 1e12
    with (
        patch.object(compactor, "COMPACT_AFTER_S", after_s),
        patch.object(Ipam, "check", lambda ipam: None),  # which costs more than all else
    ):
        return _grow(changes, hosts, universe)


def _grow(changes: int, hosts: int, universe: str) -> Growth:
    rng = Random(1)
    mesh = TestMesh(hosts, universe=universe)
    mesh.prime(0)
    mesh.run(8)
    wanted = ip_network(universe).num_addresses // 2
    running: list[list[str]] = [[] for _ in range(hosts)]
    containers = 0
    entries: list[int] = []
    for _ in range(changes):
        ring = mesh.peers[mesh.names[0]].ring
        assert ring is not None
        entries.append(len(ring))
        for at in range(hosts):
            while running[at]:
                mesh.release(at, running[at].pop())
        mesh.run(COOLED_S, STEP_S, GOSSIP_EVERY_S)
        shares = [rng.random() ** 2 for _ in range(hosts)]
        for at, share in enumerate(shares):
            for _ in range(int(wanted * share / sum(shares))):
                containers += 1
                running[at].append(f"c{containers}")
                mesh.allocate(at, running[at][-1])
        mesh.run(CHANGE_EVERY_S - COOLED_S, STEP_S, GOSSIP_EVERY_S)
    mesh.check_no_duplicates()
    mesh.check_converged()
    return Growth(tuple(entries), containers)
