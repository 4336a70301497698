"""How long until a fresh mesh gives out its first addresses, and what agreeing on a ring costs.

All routers start at once, each is told of one other, and on each a container wants an address at
once: the worst moment, for nobody knows anybody yet. It runs on the simulator: the real `Node`
with real handshakes and gossip (to about 2·log2(n) neighbours), on a virtual clock and a network
of 0.5 ms latency. Processor time is not part of virtual time, so it is given beside it.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from ipam.core.effects import RING_CHANNEL
from ipam.core.election import Consensus
from router.mesh.messages import GossipDigest, GossipUpdate, UnicastMessage
from tests.sim.checkers import Checkers
from tests.sim.network import Network
from tests.sim.peers import Host, Settings
from tests.sim.world import World

GIVE_UP_AFTER_S = 120.0
LATENCY_S = 0.0005
QUIET_S = 5.0
"""After the last address: what is still said about the ring until then counts as well."""


@dataclass
class FirstStart:
    peers: int
    first_s: float = 0.0
    last_s: float = 0.0
    connected_s: float = 0.0
    """When every router could reach every other."""
    cpu_s: float = 0.0
    """Of this process for all routers together, connecting included."""
    ring_bytes: int = 0
    ring_messages: int = 0
    largest_bytes: int = 0
    all_bytes: int = 0
    rings: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)


def measure(peers: int, wanted_by: int | None = None, seed: int = 1) -> FirstStart:
    """`wanted_by`: on how many hosts a container wants an address; on all unless given."""
    result = FirstStart(peers)
    world = World(f"first start {seed}")
    network = Network(world, latency_s=LATENCY_S, high_water_bytes=1 << 20)
    checkers = Checkers(world)
    hosts: list[Host] = []
    for number in range(peers):
        given = (f"10.0.0.{number // 2 + 1}",) if number else ()
        settings = Settings(IPv4Network("10.32.0.0/12"), Consensus(peers), given)
        hosts.append(Host(world, network, checkers, number, settings))
    checkers.hosts = hosts
    began = time.process_time()
    for host in hosts:
        host.start()
        _count(host, result)
    for host in hosts[:wanted_by]:
        host.attach(f"container on {host.label}", None, GIVE_UP_AFTER_S)
    wanted = len(hosts[:wanted_by])
    while not (result.last_s and result.connected_s) and world.now < GIVE_UP_AFTER_S:
        world.run(world.now + 0.01)
        in_use = sum(bool(one.addresses) for host in hosts for one in host.containers.values())
        if not result.first_s and in_use:
            result.first_s = world.now
        if not result.last_s and in_use == wanted:
            result.last_s = world.now
            result.cpu_s = time.process_time() - began
        if not result.connected_s and all(_connected(host, peers) for host in hosts):
            result.connected_s = world.now
    assert result.last_s, f"only {in_use} of {wanted} have an address"
    world.run(world.now + QUIET_S)
    rings = {host.ipam.ring.digest() for host in hosts if host.ipam and host.ipam.ring}
    result.rings = len(rings)
    return result


def _connected(host: Host, peers: int) -> bool:
    return host.mesh is not None and len(host.mesh.reachable_peers) >= peers - 1


def _count(host: Host, result: FirstStart) -> None:
    """Look at what the mesh hands to its links. There is no seam for that but a private one."""
    assert host.mesh is not None
    links = host.mesh._links
    send = links.send

    def counted(peer, message, now):  # type: ignore[no-untyped-def]  # as `Links.send`
        kind = type(message).__name__
        size = 0
        match message:
            case GossipUpdate(channel="ring", update=update):
                size = len(update)
            case GossipDigest(channel="ring", digest=digest):
                size = len(digest)
            case UnicastMessage(channel="ring", payload=payload):
                size = len(payload)
        if size:
            result.ring_bytes += size
            result.ring_messages += 1
            result.largest_bytes = max(result.largest_bytes, size)
            result.by_kind[kind] += size
        return send(peer, message, now)

    assert RING_CHANNEL == "ring"
    links.send = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    import sys

    for count in map(int, sys.argv[1:] or ("3", "10", "50")):
        print(measure(count))
