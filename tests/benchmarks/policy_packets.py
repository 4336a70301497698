"""What policies cost packets: 0 to 10,000 of them over 1,000 pods, on two kinds of host.

    python -m tests.benchmarks.policy_packets [--path bridge|sleeve|fastdp] [--what udp tcp flows]

A *bare* host has no packet filter at all: its first policy makes the kernel follow connections of
bridged frames. A Kubernetes *node* does that anyway: br_netfilter is switched on for all bridges,
and it has the rules of kube-proxy (`kube-proxy.rules`, which need iptables-nft). Both containers
are isolated, and may. All combinations take turns; figures are medians, of what arrives and of the
rounds' ratios. What takes part runs at real-time priority, so other work disturbs less.

    udp    datagrams of 64 bytes in all per second, in 64 flows, as fast as one process sends
    tcp    Gbit/s of one stream
    flows  datagrams per second of which each is of another flow, so each is judged anew
"""

import argparse
import os
import socket
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policy.core.policies import Policies
from tests.benchmarks.policy_cost import state_of_a_node
from tests.e2e.tunnels import VXLAN, both_ways, wait_for_overlay
from tests.policy.interpreter import tell
from tests.policy.nodes import Node
from tests.policy.objects import pod, policy
from tests.policy.shell.conftest import Cluster
from weavepy.lab import bench, routers
from weavepy.lab.bench import Ends
from weavepy.lab.lab import Lab
from weavepy.lab.life import Wanted
from weavepy.lab.system import in_namespace, run

PODS = 1000
FLOWS = 64
OPENED = 30_000
PORT = 9
REAL_TIME = 50
KUBE_PROXY = Path(__file__).with_name("kube-proxy.rules")
HOSTS = ("bare", "node")
SENDER = """
import gc, socket, sys, time
address, port, flows, seconds = sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4])
gc.disable()
sends = []
for _ in range(flows):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.connect((address, port))
    sends.append(flow.send)
data, end = b"x" * 22, time.monotonic() + seconds
while time.monotonic() < end:
    for send in sends:
        try: send(data)
        except OSError: pass
"""
OPENER = f"""
import gc, socket, sys, time
gc.disable()
giver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
address, data, began = sys.argv[1], b"x" * 22, time.monotonic()
for port in range(10_000, 10_000 + {OPENED}):
    try: giver.sendto(data, (address, port))
    except OSError: pass
print(time.monotonic() - began)
"""


States = dict[str, Policies | None]
Found = dict[tuple[str, str], list[float]]
"""By kind of host and state."""


@dataclass(frozen=True)
class Way:
    """From one container to another, and the hosts whose filters are passed."""

    nodes: Sequence[Node]
    ends: Ends
    source_address: str


def measured(way: Way, what: str, rounds: int, seconds: float, states: States) -> Found:
    combinations = [(host, name) for host in HOSTS for name in states]
    found: Found = {one: [] for one in combinations}
    for _ in range(rounds):
        for host, name in combinations:
            for node in way.nodes:
                node.run("conntrack", "-F")
                _become(node, host)
                _install(node, states[name])
            found[host, name].append(MEASURES[what](way.ends, seconds))
    return found


def table(what: str, found: Found) -> None:
    """A row for each kind of host and state; the first state is that without policies."""
    _, none = next(iter(found))
    print(f"| host | policies | {what} | by none | range | by none on a bare host |")
    print("|---|---|---|---|---|---|")
    for (host, name), values in found.items():
        ratios = _ratios(values, found[host, none])
        bare = statistics.median(_ratios(values, found[HOSTS[0], none]))
        print(
            f"| {host} | {name} | {statistics.median(values):,.{2 if what == 'tcp' else 0}f}"
            f" | {statistics.median(ratios):.3f} | {min(ratios):.2f} to {max(ratios):.2f}"
            f" | {bare:.3f} |",
            flush=True,
        )


def _ratios(values: Sequence[float], basis: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, basis, strict=True)]


# --- hosts ---------------------------------------------------------------------------------------


def _become(node: Node, host: str) -> None:
    shown = int(host == "node")
    node.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={shown}")
    for name in ("nat", "filter", "mangle"):
        node.run("nft", f"add table ip {name}; delete table ip {name}")
    if host == "node":
        node.run("iptables-nft-restore", str(KUBE_PROXY))


def _install(node: Node, policies: Policies | None) -> None:
    """Without policies there is no filter, as the daemon has it."""
    in_namespace(node.namespace, node.filter.remove)
    if policies is not None:
        node.policies = policies
        node.restore()


# --- measurements --------------------------------------------------------------------------------


def _udp(ends: Ends, seconds: float) -> float:
    """Nobody reads them, so that all after the first few cost the same at the end."""
    taker = in_namespace(ends.destination, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        taker.bind(("0.0.0.0", PORT))
        before = _packets_in(ends.destination)
        _python(ends, SENDER, str(FLOWS), str(seconds))
        return (_packets_in(ends.destination) - before) / seconds


def _tcp(ends: Ends, seconds: float) -> float:
    with _in_real_time():
        return bench.tcp(ends, max(1, round(seconds))).gbps


def _flows(ends: Ends, seconds: float) -> float:
    """Each datagram is a connection's first, and has to be judged."""
    return OPENED / float(_python(ends, OPENER))


MEASURES = {"udp": _udp, "tcp": _tcp, "flows": _flows}


def _python(ends: Ends, code: str, *arguments: str) -> str:
    argv = [sys.executable, "-c", code, ends.address, str(PORT), *arguments]
    with _in_real_time():
        return run(["ip", "netns", "exec", ends.source, *argv])


def _packets_in(namespace: str) -> int:
    shown = run(["ip", "netns", "exec", namespace, "cat", "/proc/net/dev"])
    rows = (line.partition(":") for line in shown.splitlines())
    # The lab's interface is called otherwise than the cluster's; there is one besides lo.
    return sum(int(rest.split()[1]) for name, _, rest in rows if rest and name.strip() != "lo")


@contextmanager
def _in_real_time() -> Iterator[None]:
    """What is started meanwhile is so, too."""
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REAL_TIME))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


# --- ways ----------------------------------------------------------------------------------------


@contextmanager
def on_a_bridge() -> Iterator[Way]:
    cluster = Cluster()
    try:
        addresses = ["10.1.200.1", "10.1.200.2"]
        giver, taker = (cluster.add_pod("one", address) for address in addresses)
        cluster.await_carrier([giver, taker])
        ends = Ends(giver, taker, addresses[1])
        yield Way([cluster.nodes["one"]], ends, addresses[0])
    finally:
        cluster.remove()


@contextmanager
def across_hosts(options: list[str]) -> Iterator[Way]:
    with Lab(f"p{os.getpid() % 100_000}") as lab:
        lab.up(Wanted(hosts=2, containers=1, launch_options=options))
        wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp" if options else "sleeve")
        for host in lab.plan.host_nodes:
            for find in (routers.router_pid, routers.datapath_pid):
                pid = find(lab.store, lab.plan, host)
                assert pid is not None
                run(["chrt", "--all-tasks", "--rr", "--pid", str(REAL_TIME), str(pid)])
        nodes = [Node(host, lab.namespace(host)) for host in ("h1", "h2")]
        giver, taker = (lab.namespace(name) for name in ("h1c1", "h2c1"))
        yield Way(nodes, Ends(giver, taker, lab.address("h2c1")), lab.address("h1c1"))


WAYS = {
    "bridge": on_a_bridge,
    "sleeve": lambda: across_hosts([]),
    "fastdp": lambda: across_hosts(VXLAN),
}


def states(way: Way, counts: Sequence[int]) -> States:
    speakers = (way.source_address, way.ends.address)
    return {
        f"{count:,}": state_of_a_node(count, PODS, speakers) if count else None for count in counts
    }


def selected_by(way: Way, counts: Sequence[int]) -> States:
    """One pod that so many policies select, of which the last in order lets the other one in."""
    found: States = {"0": None}
    for count in counts:
        policies = Policies(lambda pod: True)
        tell(policies, pod("x/giver", way.source_address, app="giver"))
        tell(policies, pod("x/taker", way.ends.address, app="taker"))
        for number in range(count):
            peer = {"podSelector": {"matchLabels": {f"app-{number}": "giver"}}}
            rule = {"from": [peer], "ports": [{"port": 1000 + number}]}
            tell(policies, policy(f"x/p{number}", ingress=[rule]))
        rule = {"from": [{"podSelector": {"matchLabels": {"app": "giver"}}}]}
        tell(policies, policy("x/last", ingress=[rule]))
        policies.settle()
        found[f"{count + 1} of one pod"] = policies
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", choices=WAYS, default="bridge")
    parser.add_argument("--what", choices=MEASURES, nargs="*", default=["udp", "tcp"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--counts", type=int, nargs="*", default=[0, 100, 1000, 10_000])
    parser.add_argument(
        "--one-pod", type=int, nargs="*", help="so many policies of one pod instead"
    )
    wanted = parser.parse_args()
    with WAYS[wanted.path]() as way:
        made = selected_by(way, wanted.one_pod) if wanted.one_pod else states(way, wanted.counts)
        for what in wanted.what:
            table(what, measured(way, what, wanted.rounds, wanted.seconds, made))


if __name__ == "__main__":
    main()
