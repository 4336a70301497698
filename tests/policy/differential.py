"""Random policy sets: what is compiled for two nodes, and explained, against the model.

    python -m tests.policy.differential --sets 100000 [--seed 0]

Prints how many sets and cells were compared, and the first seeds at which they differ.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from random import Random

from policy.core.explain import Service, explain
from policy.core.objects import Pod, Protocol
from policy.core.policies import Policies
from tests.policy.interpreter import Packet, address, passes, tell
from tests.policy.model import World, allowed
from tests.policy.worlds import NODES, NUMBERS, OUTSIDE, PROTOCOLS, random_world

CELLS_PER_SET = 40


def nodes_of(world: World, rng: Random) -> list[Policies]:
    """Each told in an order of its own, and one of them comes from another world."""
    nodes = []
    for node in NODES:

        def is_local(pod: Pod, node: str = node) -> bool:
            return pod.node == node

        policies, before = Policies(is_local), World()
        if node == "two":
            before = random_world(rng)
            follow(policies, World(), before, rng, policies.settle)
        follow(policies, before, world, rng, policies.settle)
        nodes.append(policies)
    return nodes


def follow(
    policies: Policies,
    before: World,
    after: World,
    rng: Random,
    settle: Callable[[], object],
) -> None:
    """All changes from one to the other, in any order; settled now and then, and at the end."""
    steps: list[Callable[[], None]] = [
        partial(tell, policies, document) for document in after.documents()
    ]
    for name in sorted(before.namespaces.keys() - after.namespaces.keys()):
        steps.append(partial(policies.handle_namespace_removed, name))
    for key in sorted(before.pods.keys() - after.pods.keys()):
        steps.append(partial(policies.handle_pod_removed, key))
    for key in sorted(before.policies.keys() - after.policies.keys()):
        steps.append(partial(policies.handle_policy_removed, key))
    rng.shuffle(steps)
    for step in steps:
        step()
        if rng.random() < 0.1:
            settle()
    settle()


def random_packet(rng: Random) -> Packet:
    family = rng.choice([4, 4, 6])
    pods = [f"10.1.0.{n}" if family == 4 else f"fd00:1::{n:x}" for n in range(1, 13)]
    outside = [one for one in OUTSIDE if (":" in one) == (family == 6)]
    ends = rng.sample([*pods, *outside], 2)
    if rng.random() < 0.1:
        return Packet(ends[0], ends[1], "ICMP")
    port = rng.choice([*NUMBERS, *NUMBERS, 79, 82, 480, 843, 844])
    return Packet(ends[0], ends[1], rng.choice(PROTOCOLS), port)


def explained(policies: Policies, packet: Packet) -> bool:
    service = Service()
    if packet.protocol != "ICMP":
        protocol: Protocol = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}[packet.protocol]  # type: ignore[assignment]  # mypy widens what a dict holds
        service = Service(protocol, packet.port)
    source, destination = address(packet.source), address(packet.destination)
    return explain(policies, source, destination, service).allowed


def differences(seed: int, cells: int = CELLS_PER_SET) -> list[str]:
    rng = Random(seed)
    world = random_world(rng)
    nodes = nodes_of(world, rng)
    found = []
    for _ in range(cells):
        packet = random_packet(rng)
        wanted = allowed(world, packet.source, packet.destination, packet.protocol, packet.port)
        got = all(passes(node.table, packet) for node in nodes)
        said = explained(nodes[0], packet)
        if got != wanted or said != wanted:
            found.append(f"seed {seed}: {packet}: model {wanted}, table {got}, explained {said}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    differing = 0
    for seed in range(arguments.seed, arguments.seed + arguments.sets):
        found = differences(seed)
        differing += len(found)
        for line in found[:3] if differing < 30 else ():
            print(line)
    print(
        f"{arguments.sets} sets, {arguments.sets * CELLS_PER_SET} cells: {differing} differ",
        flush=True,
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
