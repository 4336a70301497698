"""What network policies cost: compiling many, and packets past many.

    python -m tests.benchmarks.policy_cost compile   75,000 policies, 100,000 pods, 1,000 nodes
    python -m tests.benchmarks.policy_cost packets   small packets with 0 to 10,000 policies (root)

`compile` takes decoded JSON, as an API server's list gives it; its memory is the whole process's,
the decoded objects included. `packets` takes turns between the numbers of policies, and prints each
one's rate by the rate without policies, and the time from a change to its being in force.
"""

import argparse
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random

from policy.core.policies import Policies
from tests.policy.interpreter import tell
from tests.policy.model import Document
from tests.policy.nodes import Node
from tests.policy.objects import labels, pod, policy
from tests.policy.shell.conftest import Cluster
from weavepy.lab.system import in_namespace

NAMESPACES = 1000
NODES = 1000
APPS = 20
FLOWS = 64


def many_pods(count: int, nodes: int = NODES) -> Iterator[Document]:
    for number in range(count):
        yield pod(
            f"ns-{number % NAMESPACES}/pod-{number}",
            f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            node=f"node-{number % nodes}",
            ports={"http": 8080},
            app=f"app-{number // NAMESPACES % APPS}",
            tier=("front", "back")[number % 2],
            version=f"v{number % 7}",
        )


def many_policies(count: int) -> Iterator[Document]:
    """A few kinds, as people write them: from an app, from a namespace, from outside, by name."""
    rng = Random(1)
    for number in range(count):
        app, other = (f"app-{rng.randrange(APPS)}" for _ in range(2))
        peers: list[Document] = [{"podSelector": labels(app=other)}]
        if number % 3 == 0:
            name = {"kubernetes.io/metadata.name": f"ns-{rng.randrange(NAMESPACES)}"}
            peers.append({"namespaceSelector": {"matchLabels": name}})
        if number % 5 == 0:
            block = f"192.{number % 250}.0.0/16"
            peers.append({"ipBlock": {"cidr": block, "except": [f"192.{number % 250}.1.0/24"]}})
        ports: list[Document] = [{"port": "http"}, {"port": 9000 + number % 50}]
        yield policy(
            f"ns-{number % NAMESPACES}/policy-{number}",
            labels(app=app),
            policyTypes=["Ingress", "Egress"] if number % 4 == 0 else ["Ingress"],
            ingress=[{"from": peers, "ports": ports}],
            egress=[{"to": peers}, {"ports": [{"protocol": "UDP", "port": 53}]}],
        )


def compile_all(policies_count: int, pods_count: int) -> None:
    documents = [*many_pods(pods_count), *many_policies(policies_count)]
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.process_time()
    policies = Policies(lambda pod: pod.node == "node-7")
    for document in documents:
        tell(policies, document)
    told = time.process_time()
    policies.settle()
    settled = time.process_time()
    table = policies.table
    moved = documents[1000] | {
        "metadata": documents[1000]["metadata"] | {"labels": {"app": "app-3"}}
    }
    tell(policies, moved)
    policies.settle()
    one_ms = (time.process_time() - settled) * 1000
    after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    elements = sum(len(content.elements) for content in table.sets.values())
    print(
        f"{policies_count} policies, {pods_count} pods: read and indexed in {told - began:.2f} s,"
        f" compiled for {len(table.verdicts['ingress', 4])} isolated local pods in"
        f" {settled - told:.3f} s; a label change {one_ms:.2f} ms; {len(table.sets)} sets with"
        f" {elements} elements; {after_mb:.0f} MB, {before_mb:.0f} of them the objects themselves"
    )


# --- packets -------------------------------------------------------------------------------------


def packets(rounds: int, seconds: float, counts: list[int]) -> None:
    cluster = Cluster()
    try:
        node = cluster.nodes["one"]
        namespaces = [cluster.add_pod("one", f"10.1.200.{number}") for number in (1, 2)]
        cluster.await_carrier(namespaces)
        wanted = {count: _state(count) for count in counts}
        rates: dict[int, list[float]] = {count: [] for count in counts}
        enforced: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(rounds):
            for count in counts:
                _install(node, wanted[count])
                rates[count].append(_rate(namespaces, seconds))
                if count:
                    enforced[count] += _changes(node, wanted[count])
        for count in counts:
            ratios = [rate / none for rate, none in zip(rates[count], rates[0], strict=True)]
            took = sorted(enforced[count])
            print(
                f"{count} policies, 1,000 pods: {statistics.median(rates[count]):,.0f} packets/s,"
                f" {statistics.median(ratios):.3f} of none ({min(ratios):.3f} to {max(ratios):.3f})"
            )
            if took:
                print(
                    f"  a change is in force after {took[len(took) // 2] * 1000:.0f} ms (median),"
                    f" {took[-1] * 1000:.0f} ms (worst of {len(took)})"
                )
    finally:
        cluster.remove()


def _state(count: int) -> Policies:
    """1,000 local pods, the two that speak among them."""
    policies = Policies(lambda pod: True)
    for document in many_pods(998, nodes=1):
        tell(policies, document)
    for number in (1, 2):
        tell(policies, pod(f"ns-{number}/speaker", f"10.1.200.{number}", app="app-0"))
    for document in many_policies(count):
        tell(policies, document)
    if count:
        tell(policies, policy("ns-2/speakers", ingress=[{"from": [{"namespaceSelector": {}}]}]))
        tell(policies, policy("ns-1/speakers", policyTypes=["Egress"], egress=[{}]))
    policies.settle()
    return policies


def _install(node: Node, policies: Policies) -> None:
    """Without policies there is no filter, as the daemon has it."""
    node.policies = policies
    if policies.policies:
        node.restore()
    else:
        in_namespace(node.namespace, node.filter.remove)


def _changes(node: Node, policies: Policies) -> list[float]:
    took = []
    for number in range(4):
        began = time.monotonic()
        labels_now = {"app": "app-0", "turn": f"{number}"}
        tell(policies, pod("ns-3/pod-3", "10.0.0.3", node="node-0", **labels_now))
        tell(policies, policy("ns-3/turn", labels(turn=f"{number}"), ingress=[{}]))
        node.settle()
        took.append(time.monotonic() - began)
    return took


def _rate(namespaces: list[str], seconds: float) -> float:
    """64-byte datagrams of 64 flows that arrive in a second, sent as fast as one process can."""
    taker = in_namespace(namespaces[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    code = f"""
import socket, time
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({FLOWS})]
for flow in flows: flow.connect(("10.1.200.2", 9))
data, end = b"x" * 22, time.monotonic() + {seconds}
while time.monotonic() < end:
    for flow in flows:
        try: flow.send(data)
        except OSError: pass
"""
    with taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        taker.bind(("0.0.0.0", 9))
        before = _packets_in(namespaces[1])
        subprocess.run(
            ["ip", "netns", "exec", namespaces[0], sys.executable, "-c", code], check=True
        )
        return (_packets_in(namespaces[1]) - before) / seconds


def _packets_in(namespace: str) -> int:
    shown = subprocess.run(
        ["ip", "netns", "exec", namespace, "cat", "/proc/net/dev"], capture_output=True, text=True
    ).stdout
    line = next(line for line in shown.splitlines() if "eth0:" in line)
    return int(line.split()[2])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["compile", "packets"])
    parser.add_argument("--policies", type=int, default=75_000)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--counts", type=int, nargs="*", default=[0, 100, 1000, 10_000])
    arguments = parser.parse_args()
    if arguments.what == "compile":
        compile_all(arguments.policies, arguments.pods)
    else:
        packets(arguments.rounds, arguments.seconds, arguments.counts)


if __name__ == "__main__":
    main()
