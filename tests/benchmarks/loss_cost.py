"""What loss costs TCP through the overlay, beside what it costs on the bare line in the same run.

    python -m tests.benchmarks.loss_cost [--rounds 3] [--seconds 2]

Two hosts of a lab, whose line drops each packet by lot. One TCP stream (cubic) goes in turn from
container to container through weavepy, from host to host through the kernel's own VXLAN, and from
host to host bare. All three lose alike; what differs is the time that a segment and its
acknowledgement take, and that weavepy sends parity. Medians of the rounds. Needs root; leaves
nothing behind.
"""

import argparse
import os
import statistics
from dataclasses import dataclass

from weavepy.lab import bench
from weavepy.lab.bench import Ends
from weavepy.lab.lab import Lab, LinkChange
from weavepy.lab.life import Wanted
from weavepy.lab.plan import Node
from weavepy.lab.system import ip_batch

LOSSES = (0.0, 0.001, 0.01)
CUBIC = ["-C", "cubic"]

_VXLAN = "bench0"
_VXLAN_PORT = 4789
_VXLAN_MTU = 1450


@dataclass(frozen=True)
class LossCost:
    loss: float
    weavepy_gbps: float
    vxlan_gbps: float
    bare_gbps: float


def measure(losses: tuple[float, ...], rounds: int, seconds: int) -> list[LossCost]:
    with Lab(f"l{os.getpid() % 100_000}") as lab:
        lab.up(Wanted(hosts=2, containers=1))
        ways = _ways(lab)
        costs = []
        for loss in losses:
            lab.link("h1", "h2", LinkChange(loss=loss))
            runs = [[bench.tcp(ends, seconds, CUBIC).gbps for ends in ways] for _ in range(rounds)]
            costs.append(LossCost(loss, *map(statistics.median, zip(*runs, strict=True))))
        return costs


def _ways(lab: Lab) -> tuple[Ends, Ends, Ends]:
    plan = lab.plan
    one, other = plan.namespace(Node(1)), plan.namespace(Node(2))
    link = plan.link("h1", "h2")
    near, far = link.end_at(1), link.end_at(2)
    for namespace, end, remote, inner in (
        (one, near, far, "192.168.99.1"),
        (other, far, near, "192.168.99.2"),
    ):
        tunnel = f"id 1 dstport {_VXLAN_PORT} local {end.address} remote {remote.address}"
        ip_batch(
            namespace,
            [
                f"link add {_VXLAN} mtu {_VXLAN_MTU} type vxlan {tunnel} dev {end.interface}",
                f"address add {inner}/24 dev {_VXLAN}",
                f"link set {_VXLAN} up",
            ],
        )
    containers = plan.namespace(Node(1, 1)), plan.namespace(Node(2, 1))
    return (
        Ends(*containers, lab.address("h2c1")),
        Ends(one, other, "192.168.99.2"),
        Ends(one, other, far.address),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    wanted = parser.parse_args()
    print("| loss | weavepy | kernel VXLAN | bare line | weavepy / VXLAN | weavepy / bare |")
    print("|---|---|---|---|---|---|")
    for cost in measure(LOSSES, wanted.rounds, wanted.seconds):
        print(
            f"| {cost.loss:.1%} | {cost.weavepy_gbps:.2f} Gbit/s | {cost.vxlan_gbps:.2f} Gbit/s"
            f" | {cost.bare_gbps:.2f} Gbit/s | {cost.weavepy_gbps / cost.vxlan_gbps:.2f}"
            f" | {cost.weavepy_gbps / cost.bare_gbps:.2f} |"
        )


if __name__ == "__main__":
    main()
