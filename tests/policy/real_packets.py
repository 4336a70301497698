"""Random policy sets on real packets: 9 pods in 3 namespaces on two nodes, 81 cells each.

    python -m tests.policy.real_packets --sets 300 [--seed 0] [--path cable|sleeve|fastdp]

The model, `explain` and the packets must agree in every cell. The nodes go from one set to the next
as they would in a cluster: by changes of what is in force, some at a time. `cable` joins the two
bridges directly, `sleeve` and `fastdp` are labs with routers.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from random import Random

from tests.e2e.tunnels import VXLAN, both_ways, wait_for_overlay
from tests.policy.differential import explained, follow
from tests.policy.interpreter import Packet
from tests.policy.model import Document, World, allowed
from tests.policy.nodes import Node
from tests.policy.reach import Cell, Reach
from tests.policy.shell.conftest import Cluster
from tests.policy.worlds import NUMBERS, random_pod, random_world
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted

PODS = 9


@dataclass(frozen=True)
class Place:
    """Where a pod lives."""

    namespace: str
    """Its network namespace."""
    node: str
    addresses: tuple[str, ...]


class Packets:
    """Nodes and pods that packets can be sent between, while policies change."""

    def __init__(self, nodes: Sequence[Node], places: Sequence[Place]) -> None:
        assert len(places) == PODS
        self._nodes = nodes
        self._places = places
        self._world = World()
        self.reach = Reach([place.namespace for place in places], NUMBERS)
        self.cells = 0

    def close(self) -> None:
        self.reach.close()

    def differences(self, seed: int) -> list[str]:
        rng = Random(seed)
        world = random_world(rng)
        for number, document in enumerate([*world.pods.values()]):
            world.put(_placed(document, self._places[number]))
        if rng.random() < 0.3:
            # An address that two pods claim: old news, or a pod that is there too early.
            world.put(_placed(random_pod(rng, PODS), rng.choice(self._places)))
        before, self._world = self._world, world
        for node in self._nodes:
            follow(node.policies, before, world, rng, node.settle)
        packets = {
            Cell(giver.namespace, packet.destination, packet.protocol, packet.port): packet
            for giver in self._places
            for taker in self._places
            for packet in [_random_packet(rng, giver, taker)]
        }
        self.cells += len(packets)
        wanted = {cell for cell, packet in packets.items() if _allowed(world, packet)}
        got = self.reach.table(packets, wanted)
        said = {
            cell for cell, packet in packets.items() if explained(self._nodes[0].policies, packet)
        }
        return [
            f"seed {seed}: {packet}: model {cell in wanted}, packet {cell in got},"
            f" explained {cell in said}"
            for cell, packet in packets.items()
            if not (cell in wanted) == (cell in got) == (cell in said)
        ]


def _placed(document: Document, place: Place) -> Document:
    """A pod as it is, but where there is a container for it."""
    status = document["status"] | {"podIPs": [{"ip": one} for one in place.addresses]}
    status.pop("podIP", None)
    return document | {
        "spec": document["spec"] | {"nodeName": place.node},
        "status": status,
    }


def _random_packet(rng: Random, giver: Place, taker: Place) -> Packet:
    number = rng.randrange(len(taker.addresses))
    source, destination = giver.addresses[number], taker.addresses[number]
    if rng.random() < 0.2:
        return Packet(source, destination, "ICMP")
    return Packet(source, destination, rng.choice(["TCP", "UDP"]), rng.choice(NUMBERS))


def _allowed(world: World, packet: Packet) -> bool:
    """A pod's packets to itself never leave it."""
    return packet.source == packet.destination or allowed(
        world, packet.source, packet.destination, packet.protocol, packet.port
    )


@contextmanager
def cable(cluster: Cluster) -> Iterator[Packets]:
    places = []
    for number in range(PODS):
        node = "one" if number % 2 else "two"
        addresses = (f"10.1.0.{number + 1}", f"fd00:1::{number + 1:x}")
        places.append(Place(cluster.add_pod(node, *addresses), node, addresses))
    cluster.await_carrier([place.namespace for place in places])
    with closing(Packets([*cluster.nodes.values()], places)) as packets:
        yield packets


@contextmanager
def new_cable() -> Iterator[Packets]:
    cluster = Cluster()
    try:
        with cable(cluster) as packets:
            yield packets
    finally:
        cluster.remove()


@contextmanager
def lab(launch_options: list[str]) -> Iterator[Packets]:
    with Lab(f"r{os.getpid() % 100_000}") as made:
        made.up(Wanted(hosts=2, containers=5, launch_options=launch_options))
        overlay = "fastdp" if launch_options else "sleeve"
        wait_for_overlay(made, both_ways(("h1", "h2")), overlay)
        with closing(in_lab(made)) as packets:
            yield packets


def in_lab(made: Lab) -> Packets:
    """The first nine containers of a lab with two hosts of five."""
    nodes = [Node(host, made.namespace(host)) for host in ("h1", "h2")]
    for node in nodes:
        node.restore()
    containers = made.plan.container_nodes[:PODS]
    assert made.ping().ok
    return Packets(
        nodes,
        [
            Place(made.namespace(one.name), one.host_name, (made.address(one.name),))
            for one in containers
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", choices=["cable", "sleeve", "fastdp"], default="cable")
    arguments = parser.parse_args()
    place = {"cable": new_cable, "sleeve": lambda: lab([]), "fastdp": lambda: lab(VXLAN)}
    differing = 0
    with place[arguments.path]() as packets:
        for seed in range(arguments.seed, arguments.seed + arguments.sets):
            found = packets.differences(seed)
            differing += len(found)
            for line in found[:5]:
                print(line, flush=True)
        print(
            f"{arguments.sets} sets by {arguments.path}, {packets.cells} cells: {differing} differ"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
