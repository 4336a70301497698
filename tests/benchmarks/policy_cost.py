"""What network policies cost a router: compiling many, and bringing changes into force.

    python -m tests.benchmarks.policy_cost compile   75,000 policies, 100,000 pods, 1,000 nodes
    python -m tests.benchmarks.policy_cost events    changes among 0 to 10,000 policies (root)

`compile` takes decoded JSON, as an API server's list gives it; its memory is the whole process's,
the decoded objects included, and garbage is collected as seldom as in a router. `events` counts
from a decoded object to the packet filter's committed transaction, with 1,000 pods on the node.
What packets pay: `policy_packets`.
"""

import argparse
import gc
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from policy.core.policies import Policies
from tests.policy.interpreter import tell
from tests.policy.model import Document
from tests.policy.nodes import Node
from tests.policy.objects import labels, namespace, pod, policy
from tests.policy.shell.conftest import Cluster
from weavepy.daemon.main import COLLECT_AFTER
from weavepy.lab.system import in_namespace

NAMESPACES = 1000
NODES = 1000
APPS = 20


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
    gc.set_threshold(*COLLECT_AFTER)
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


# --- events --------------------------------------------------------------------------------------


def events(changes: int, counts: list[int]) -> None:
    """Each kind of change so often, on a node with 1,000 pods, in turns."""
    cluster = Cluster()
    try:
        node = cluster.nodes["one"]
        print("| other policies | change | p50 | p99 | worst |")
        print("|---|---|---|---|---|")
        for count in counts:
            node.policies = state_of_a_node(count, 1000)
            everybody = [{"podSelector": {}}]
            tell(node.policies, policy("ns-3/all", ingress=[{"from": everybody}]))
            node.restore()
            # As in a router: in the host's namespace once and for all, because going there takes
            # ten times as long as what is measured.
            took = in_namespace(node.namespace, partial(_timed, node, changes))
            for name, listed in took.items():
                listed.sort()
                p50, p99 = listed[len(listed) // 2], listed[len(listed) * 99 // 100]
                print(f"| {count:,} | {name} | {p50:.1f} ms | {p99:.1f} ms | {listed[-1]:.1f} ms |")
    finally:
        cluster.remove()


def _timed(node: Node, changes: int) -> dict[str, list[float]]:
    """Milliseconds, by what was changed."""
    took: dict[str, list[float]] = {}
    for number in range(changes):
        for name, change in _changes(number).items():
            began = time.monotonic()
            change(node.policies)
            node.filter.apply(node.policies.settle(), node.policies.table)
            took.setdefault(name, []).append((time.monotonic() - began) * 1000)
    return took


def state_of_a_node(count: int, pods: int, speakers: tuple[str, ...] = ()) -> Policies:
    """So many local pods, those with the speakers' addresses among them, which may."""
    policies = Policies(lambda pod: True)
    for document in many_pods(pods - len(speakers), nodes=1):
        tell(policies, document)
    for number, address in enumerate(speakers, 1):
        tell(policies, pod(f"ns-{number}/speaker", address, app="app-0"))
        every = [{"namespaceSelector": {}}]
        tell(policies, policy(f"ns-{number}/in", ingress=[{"from": every}]))
        tell(policies, policy(f"ns-{number}/out", policyTypes=["Egress"], egress=[{"to": every}]))
    for document in many_policies(count):
        tell(policies, document)
    policies.settle()
    return policies


def _changes(number: int) -> dict[str, Callable[[Policies], None]]:
    """A pod and a policy that come, change and go, in namespaces that others are in, too."""
    turn = f"turn-{number}"
    address = f"10.200.{number >> 8}.{number & 255}"
    selecting = labels(turn=turn)
    peers = [{"podSelector": selecting}, {"namespaceSelector": selecting}]
    ports = [{"port": "http"}, {"port": 80}]
    documents = {
        "pod added": pod(f"ns-3/{turn}", address, app="app-0"),
        "policy added": policy(f"ns-3/{turn}", ingress=[{"from": peers, "ports": ports}]),
        "pod's labels": pod(f"ns-3/{turn}", address, app="app-1", turn=turn),
        "namespace's labels": namespace("ns-4", turn=turn),
    }
    return {
        **{name: partial(_tell, document) for name, document in documents.items()},
        "policy deleted": lambda policies: policies.handle_policy_removed(("ns-3", turn)),
        "pod deleted": lambda policies: policies.handle_pod_removed(("ns-3", turn)),
    }


def _tell(document: Document, policies: Policies) -> None:
    tell(policies, document)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["compile", "events"])
    parser.add_argument("--policies", type=int, default=75_000)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--counts", type=int, nargs="*", default=[0, 100, 1000, 10_000])
    arguments = parser.parse_args()
    if arguments.what == "compile":
        compile_all(arguments.policies, arguments.pods)
    else:
        events(arguments.changes, arguments.counts)


if __name__ == "__main__":
    main()
