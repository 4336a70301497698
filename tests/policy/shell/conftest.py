"""Two hosts, each with a bridge and containers on it, whose bridges are joined by a cable."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy.core.objects import Pod
from policy.core.parsing import parse
from tests.namespaces import Namespaces, can_make_namespaces, run
from tests.policy.model import Document
from tests.policy.nodes import BRIDGE, Node, OldKernel
from tests.policy.reach import Reach
from weavepy.kernel.ownership import Session

PORTS = (80, 81, 5353)


class Cluster(Namespaces):
    def __init__(self, session: type[Session] = Session) -> None:
        super().__init__()
        self.nodes = {name: Node(name, self.add(name).name, session) for name in ("one", "two")}
        self.pods: dict[str, Path] = {}
        for number, node in enumerate(self.nodes.values(), 1):
            node.run("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
            node.run("ip", "addr", "add", f"10.1.255.{number}/16", "dev", BRIDGE)
            node.run("ip", "addr", "add", f"fd00:1::ff:{number}/64", "dev", BRIDGE, "nodad")
            node.run("ip", "link", "set", BRIDGE, "up")
        one, two = (node.namespace for node in self.nodes.values())
        run("ip", "-n", one, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", two)
        for node in self.nodes.values():
            node.run("ip", "link", "set", "cable", "master", BRIDGE, "up")
            node.restore()

    def add_pod(self, node: str, *addresses: str) -> str:
        """A container with these addresses; returns its namespace."""
        number = len(self.pods) + 1
        namespace = self.add(f"pod{number}")
        host = self.nodes[node].namespace
        run(
            *f"ip -n {host} link add pod{number} type veth".split(),
            *f"peer eth0 netns {namespace.name}".split(),
        )
        self.nodes[node].place(f"pod{number}", addresses)
        run("ip", "-n", host, "link", "set", f"pod{number}", "master", BRIDGE, "up")
        run("ip", "-n", namespace.name, "link", "set", "eth0", "up")
        for address in addresses:
            length, more = ("/64", ["nodad"]) if ":" in address else ("/16", [])
            run("ip", "-n", namespace.name, "addr", "add", address + length, "dev", "eth0", *more)
            self.pods[address] = namespace
        return namespace.name

    def tell(self, *documents: Document) -> None:
        """All nodes, of objects that are new or changed; then they act on it."""
        for node in self.nodes.values():
            for document in documents:
                node.tell(document)
            node.settle()

    def run_in(self, namespace: str, *command: str) -> str:
        return run("ip", "netns", "exec", namespace, *command)

    def place(self, *pods: Document) -> list[str]:
        """Pods with their containers; returns their namespaces."""
        made = []
        for document in pods:
            pod = parse(document)
            assert isinstance(pod, Pod)
            made.append(self.add_pod(pod.node, *(str(one) for one in pod.addresses)))
        self.await_carrier(made)
        self.tell(*pods)
        return made

    def await_carrier(self, namespaces: list[str]) -> None:
        """The kernel may take a second until an interface that came up sends anything."""
        pings = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, "ping", "-c", "1", "-w", "10", "10.1.255.1"],
                stdout=subprocess.DEVNULL,
            )
            for name in namespaces
        ]
        assert not any(ping.wait(15) for ping in pings)

    def remove(self) -> None:
        for node in self.nodes.values():
            node.filter.close()
        super().remove()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    yield from _cluster(Session)


@pytest.fixture
def owned_cluster(cluster: Cluster) -> Cluster:
    if not all(node.filter.owned for node in cluster.nodes.values()):
        pytest.skip("this kernel has no tables that one process owns (Linux 6.9)")
    return cluster


@pytest.fixture
def open_cluster() -> Iterator[Cluster]:
    """As on a kernel where whoever may change one table may change all."""
    yield from _cluster(OldKernel)


def _cluster(session: type[Session]) -> Iterator[Cluster]:
    if not can_make_namespaces():
        pytest.skip("needs root, to make network namespaces")
    made = Cluster(session)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def reach(cluster: Cluster) -> Iterator["ReachMaker"]:
    maker = ReachMaker()
    try:
        yield maker
    finally:
        maker.close()


class ReachMaker:
    """`reach.among(namespaces)` puts listeners there for as long as the test lasts."""

    def __init__(self) -> None:
        self._made: list[Reach] = []

    def among(self, *namespaces: str, sctp: bool = False) -> Reach:
        made = Reach(namespaces, PORTS, sctp)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()
