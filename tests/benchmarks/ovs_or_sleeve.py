"""Open vSwitch's userspace datapath against sleeve: is it a better way than having none?

    sudo python -m tests.benchmarks.ovs_or_sleeve [--rounds N] [--seconds S]

Labs of two hosts side by side, through each of which one TCP stream goes in turn: a fast path by
OVS, sleeve, and sleeve encrypted. Medians of the rounds. The hosts of the first have their underlay
on that datapath, as it needs it.
"""

import argparse
import os
import statistics
from contextlib import ExitStack

from tests.e2e.switches import Switches
from tests.e2e.tunnels import OVS, both_ways, wait_for_overlay
from weavepy.lab import bench
from weavepy.lab.bench import Ends
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted
from weavepy.lab.plan import Node

SLEEVE = ["--fastdp", "off"]
START_S = 30.0


def measure(rounds: int, seconds: int) -> dict[str, float]:
    """Gbit/s."""
    ways = {
        "ovs netdev": Wanted(2, 1, launch_options=OVS, before_routers=Switches().set_up),
        "sleeve": Wanted(2, 1, launch_options=[*SLEEVE, "--insecure"]),
        "sleeve, encrypted": Wanted(2, 1, launch_options=SLEEVE),
    }
    with ExitStack() as labs:
        ends = []
        for letter, wanted in zip("abc", ways.values(), strict=True):
            lab = labs.enter_context(Lab(f"{letter}{os.getpid() % 100_000}"))
            lab.up(wanted)
            if wanted.launch_options == OVS:
                wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp", START_S)
            containers = (lab.plan.namespace(Node(host, 1)) for host in (1, 2))
            ends.append(Ends(*containers, lab.address("h2c1")))
        runs = [[bench.tcp(each, seconds, []).gbps for each in ends] for _ in range(rounds)]
    return dict(zip(ways, map(statistics.median, zip(*runs, strict=True)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=1)
    wanted = parser.parse_args()
    for way, gbps in measure(wanted.rounds, wanted.seconds).items():
        print(f"{way}: {gbps:.2f} Gbit/s")


if __name__ == "__main__":
    main()
