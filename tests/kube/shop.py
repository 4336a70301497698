"""Pods in two namespaces on two nodes of a real cluster, and who of them reaches whom.

The pods do nothing; listeners and clients are sockets that the tests make in their network
namespaces (`tests.policy.reach`), so a whole table is tried at once.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.kube.cluster import Cluster, condition
from tests.kube.installed import pod, weavepy
from tests.kube.places import wait_for
from tests.policy.reach import Cell, Reach

Document = dict[str, Any]
PORTS = (80, 8080)
Table = set[tuple[str, str, int]]
"""From, to, port."""

PODS = {
    "shop/web": ("n1", {"app": "web"}),
    "shop/client": ("n1", {"app": "client"}),
    "shop/far": ("n2", {"app": "client"}),
    "other/stranger": ("n2", {"app": "client"}),
}
IN_FORCE_S = 5.0
"""It takes milliseconds; the machine may be busy."""


def namespaced(key: str, found: Document) -> Document:
    namespace, _, name = key.partition("/")
    found["metadata"] |= {"namespace": namespace, "name": name}
    return found


def idle_pod(key: str, node: str, labels: dict[str, str]) -> Document:
    return namespaced(key, pod("", node, "/usr/bin/agnhost", "pause", labels=labels))


def network_policy(name: str, selector: dict[str, str] | None = None, **spec: Any) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"podSelector": {"matchLabels": selector or {}}, **spec},
    }


class Shop:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.addresses: dict[str, str] = {}
        self.places: dict[str, str] = {}
        """Paths of the pods' network namespaces, as the machine sees them."""
        self.reach = Reach((), ())

    def start(self) -> None:
        spaces = {
            name: {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in ("shop", "other")
        }
        self.cluster.apply(*spaces.values())
        for name in spaces:
            wait_for(
                f"{name} has its account",
                lambda name=name: self.cluster.get("serviceaccount", "default", "-n", name),
                30,
            )
        self.start_pods(*(idle_pod(key, node, labels) for key, (node, labels) in PODS.items()))
        self.reach = Reach(self.places.values(), PORTS)

    def start_pods(self, *wanted: Document) -> None:
        self.cluster.apply(*wanted)
        for one in wanted:
            key = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            wait_for(f"{key} is Ready", lambda key=key: self._is_ready(key), 90)
            self.addresses[key] = self.get(key)["status"]["podIP"]
            self.places[key] = self._place(key, one["spec"]["nodeName"])

    def get(self, key: str) -> Document:
        namespace, _, name = key.partition("/")
        found: Document = self.cluster.get("pod", name, "-n", namespace)
        return found

    def _is_ready(self, key: str) -> bool:
        return condition(self.get(key), "Ready") == "True"

    def _place(self, key: str, node: str) -> str:
        listed = json.loads(weavepy(self.cluster, node, "ps", "--json"))["attachments"]
        (path,) = [one["namespace"] for one in listed if one["pod"] == key]
        return f"/proc/{self.cluster.nodes[node].pid}/root{path.removeprefix('/var')}"

    def delete(self, *documents: Document) -> None:
        for one in documents:
            meta = one["metadata"]
            self.cluster.kubectl(
                *("delete", one["kind"], meta["name"], "-n", meta["namespace"], "--wait=false")
            )

    def everything(self) -> Table:
        return {(one, to, port) for one in PODS for to in PODS for port in PORTS if one != to}

    def to(self, *pods: str) -> Table:
        return {key for key in self.everything() if key[1] in pods}

    def check(self, expected: Table) -> None:
        """Packets, and what each node's `policy matrix` says about them."""
        cells = {
            Cell(self.places[one], self.addresses[to], "TCP", port): (one, to, port)
            for one, to, port in self.everything()
        }
        wanted = {cell for cell, key in cells.items() if key in expected}

        def is_so() -> bool:
            got = {cells[cell] for cell in self.reach.table(cells, wanted)}
            assert got == expected, f"too many {got - expected}, missing {expected - got}"
            return True

        wait_for("who reaches whom", is_so, IN_FORCE_S)
        for node in ("n1", "n2"):
            for port in PORTS:
                assert self.matrix(node, port) == {key for key in expected if key[2] == port}

    def matrix(self, node: str, port: int) -> Table:
        """Of the pods that are isolated nowhere else: `node` knows all of them."""
        said = weavepy(self.cluster, node, "policy", "matrix", "--json", "--port", f"{port}/tcp")
        answer = json.loads(said)
        return {
            (one, to, port)
            for one, row in zip(answer["pods"], answer["allowed"], strict=True)
            for to, passes in zip(answer["pods"], row, strict=True)
            if passes and one != to and one in PODS and to in PODS
        }

    def connects(self, source: str, destination: str, port: int, expected: bool = True) -> None:
        """`source` is a pod or a network namespace."""
        cell = Cell(self.places.get(source, source), destination, "TCP", port)

        def is_so() -> bool:
            return (self.reach.table([cell], [cell] if expected else []) == {cell}) is expected

        what = "reaches" if expected else "does not reach"
        wait_for(f"{source} {what} {destination}:{port}", is_so, 2 * IN_FORCE_S)

    @contextmanager
    def having(self, *documents: Document) -> Iterator[None]:
        self.cluster.apply(*documents)
        try:
            yield
        finally:
            self.delete(*documents)
