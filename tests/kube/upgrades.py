"""Routers are replaced, and the API server is away, while pods talk: every packet is counted.

The tests are here and run in `test_cluster`, in the process that has the cluster.

WEAVEPY_KUBE_ROLLOUT=1   upgrade all nodes, as `kubectl rollout restart` does: minutes on 1.20
WEAVEPY_KUBE_HUNG=1      stop a datapath's process until kubelet replaces it: a minute and a half
WEAVEPY_KUBE_AWAY_S=180  have the API server away for so long; the suite does it to a stand-in
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from router.shell import namespaces
from tests.e2e.traffic import Arrivals, Stream
from tests.kube.cluster import Cluster
from tests.kube.installed import (
    NAMESPACE,
    fetch,
    is_ready,
    pod,
    ready_routers,
    start_pods,
    status,
    weavepy,
)
from tests.kube.places import wait_for

HUNG = bool(os.environ.get("WEAVEPY_KUBE_HUNG"))
ROLLOUT = bool(os.environ.get("WEAVEPY_KUBE_ROLLOUT"))
AWAY_S = float(os.environ.get("WEAVEPY_KUBE_AWAY_S", "0"))
RATE = 50.0
"""Packets in a second, for each pair."""

Result = TypeVar("Result")


class Pods:
    """The network namespaces of pods, as containers of `Stream`."""

    def __init__(self, cluster: Cluster, addresses: dict[str, str]) -> None:
        """`addresses` by name; each name ends with its node's."""
        self._addresses = addresses
        self._paths = {name: _namespace(cluster, name) for name in addresses}

    def inside(self, name: str, work: Callable[[], Result]) -> Result:
        with namespaces.opened(self._paths[name]) as descriptor:
            return namespaces.run_inside(descriptor, work)

    def address(self, name: str) -> str:
        return self._addresses[name]

    @contextlib.contextmanager
    def talking(self) -> Iterator[dict[str, Arrivals]]:
        """Each to each other one, while open."""
        with contextlib.ExitStack() as stack:
            yield {
                f"{source} to {other}": stack.enter_context(Stream(self, source, other, RATE))
                for source in self._paths
                for other in self._paths
                if source != other
            }


def _namespace(cluster: Cluster, name: str) -> Path:
    """Found among those that the node's runtime has named, by the pod's own word."""
    place = cluster.nodes[name.rpartition("-")[2]]
    said = cluster.kubectl("exec", name, "--", "/bin/readlink", "/proc/self/ns/net")
    number = int(said.partition("[")[2].partition("]")[0])
    folder = Path(f"/proc/{place.pid}/root/run/netns")
    return next(path for path in folder.iterdir() if path.stat().st_ino == number)


def pod_of(cluster: Cluster, daemon_set: str, node: str) -> str:
    """The name of its pod on a node, not of one that is being deleted."""
    found = cluster.get(
        *("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name={daemon_set}"),
        f"--field-selector=spec.nodeName={node}",
    )["items"]
    (name,) = [
        one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]
    ]
    return str(name)


def replace(cluster: Cluster, daemon_set: str, node: str) -> None:
    """Have its pod made anew. By force, as an orderly deletion takes up to a minute on 1.20,
    nearly all of it after the last process has ended."""
    name = pod_of(cluster, daemon_set, node)
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0")
    wait_for(f"{node} has another", lambda: pod_of(cluster, daemon_set, node) != name, 60)


def age_s(cluster: Cluster, node: str) -> float:
    """Of its datapath."""
    return float(status(cluster, node)["datapath"]["uptime_s"])


def attached(cluster: Cluster, node: str) -> set[str]:
    found = json.loads(weavepy(cluster, node, "ps", "--json"))["attachments"]
    return {one["host_interface"] for one in found}


def kill_sandbox(namespace: Path) -> None:
    """The processes of a pod; kubelet makes it again, with new namespaces."""
    number = namespace.stat().st_ino
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "ns/net").stat().st_ino == number:
                os.kill(int(process.name), signal.SIGKILL)


class Upgrades:
    @pytest.fixture(scope="class")
    @classmethod
    def pods(cls, cluster: Cluster, web: dict[str, str]) -> Pods:
        return Pods(cluster, web)

    def test_a_router_is_replaced_and_no_packet_is_lost(self, cluster: Cluster, pods: Pods) -> None:
        before = status(cluster, "n1")["router"]["uid"]
        with pods.talking() as seen:
            replace(cluster, "weavepy", "n1")
            wait_for(
                "another router is there and has met the others",
                lambda: (
                    status(cluster, "n1")["router"]["uid"] != before
                    and status(cluster, "n1")["router"]["peers"] == len(cluster.nodes)
                ),
                60,
            )
            wait_for("it is Ready", lambda: "n1" in ready_routers(cluster), 60)
        assert all(arrivals.sent for arrivals in seen.values())
        assert {pair: arrivals.lost for pair, arrivals in seen.items() if arrivals.lost} == {}

    @pytest.mark.skipif(not ROLLOUT, reason="minutes: WEAVEPY_KUBE_ROLLOUT=1 runs it")
    @pytest.mark.timeout(900)
    def test_all_routers_are_replaced_and_no_packet_is_lost(
        self, cluster: Cluster, pods: Pods
    ) -> None:
        began = time.monotonic()
        with pods.talking() as seen:
            cluster.kubectl("-n", NAMESPACE, "rollout", "restart", "ds/weavepy")

            def is_over() -> bool:
                found = cluster.get("ds", "weavepy", "-n", NAMESPACE)["status"]
                wanted = len(cluster.nodes)
                return bool(
                    found["updatedNumberScheduled"] == wanted
                    and found.get("numberAvailable", 0) == wanted
                )

            wait_for("all are new", is_over, 800)
        sent = sum(arrivals.sent for arrivals in seen.values())
        print(f"{time.monotonic() - began:.0f} s, {sent} packets")
        assert {pair: arrivals.lost for pair, arrivals in seen.items() if arrivals.lost} == {}

    def test_a_datapath_is_replaced_and_pods_find_each_other_again(
        self, cluster: Cluster, web: dict[str, str], pods: Pods
    ) -> None:
        with pods.talking() as seen:
            replace(cluster, "weavepy-datapath", "n1")
            wait_for(
                "its pods are reached",
                lambda: fetch(cluster, "web-n2", f"http://{web['web-n1']}:8080/hostname"),
                60,
            )
        gap_s = max(arrivals.longest_gap_s for arrivals in seen.values())
        print(f"no longer than {gap_s:.1f} s without a packet")
        elsewhere = [arrivals for pair, arrivals in seen.items() if "web-n1" not in pair]
        assert [arrivals.lost for arrivals in elsewhere] == [[], []]

    @pytest.mark.skipif(not HUNG, reason="a minute and a half: WEAVEPY_KUBE_HUNG=1 runs it")
    def test_a_datapath_that_hangs_is_replaced_by_kubelet(
        self, cluster: Cluster, web: dict[str, str]
    ) -> None:
        name = pod_of(cluster, "weavepy-datapath", "n1")

        def restarts() -> int:
            (container,) = cluster.get("pod", name, "-n", NAMESPACE)["status"]["containerStatuses"]
            return int(container["restartCount"])

        before = restarts()
        wait_for("it is older than its first probes", lambda: age_s(cluster, "n1") > 45, 60)
        assert restarts() == before, "the probe finds nothing wrong with one that works"
        began = time.monotonic()
        cluster.nodes["n1"].run("pkill", "-STOP", "-f", "weavepy datapath")
        wait_for("its container is another", lambda: restarts() > before, 150)
        wait_for(
            "its pods are reached",
            lambda: fetch(cluster, "web-n2", f"http://{web['web-n1']}:8080/hostname"),
            60,
        )
        print(f"{time.monotonic() - began:.0f} s from when it hung to when frames flow")

    @pytest.mark.skipif(not AWAY_S, reason="minutes: WEAVEPY_KUBE_AWAY_S=180 runs it")
    @pytest.mark.timeout(400 + AWAY_S)
    def test_without_the_api_server_pods_talk_restart_and_are_given_networks(
        self, cluster: Cluster, web: dict[str, str], pods: Pods
    ) -> None:
        start_pods(cluster, pod("restarted-n3", "n3"))
        killed = _namespace(cluster, "restarted-n3")
        before = attached(cluster, "n3")
        uid = status(cluster, "n2")["router"]["uid"]
        cluster.control.stop("kube-apiserver", signal.SIGKILL)
        try:
            with pods.talking() as seen:
                until = time.monotonic() + AWAY_S
                cluster.nodes["n2"].run("pkill", "-9", "-f", "weavepy kube")
                kill_sandbox(killed)
                wait_for(
                    "kubelet has started a router, which has peers and ring",
                    lambda: (
                        status(cluster, "n2")["router"]["uid"] != uid
                        and status(cluster, "n2")["router"]["peers"] == len(cluster.nodes)
                        and status(cluster, "n2")["ipam"]["state"] == "ready"
                    ),
                    90,
                )
                wait_for(
                    "a new sandbox has a network, and the old one's is cleared away",
                    lambda: (
                        len(attached(cluster, "n3")) == len(before)
                        and attached(cluster, "n3") != before
                    ),
                    60,
                )
                time.sleep(max(0.0, until - time.monotonic()))
            assert {pair: arrivals.lost for pair, arrivals in seen.items() if arrivals.lost} == {}
            assert "away" in json.dumps(status(cluster, "n1")["router"]["warnings"])
        finally:
            cluster.control.start("kube-apiserver")
        began = time.monotonic()
        wait_for("the server answers", lambda: cluster.get("nodes"), 60)
        for node in cluster.nodes:
            wait_for(
                f"the router of {node} has found it",
                lambda node=node: "Kubernetes" not in json.dumps(status(cluster, node)["router"]),
                150,
            )
        print(f"all are back {time.monotonic() - began:.0f} s after the server")
        cluster.wait_ready()
        wait_for("the pod is ready again", lambda: is_ready(cluster, "restarted-n3"), 60)
        address = cluster.get("pod", "restarted-n3")["status"]["podIP"]
        assert fetch(cluster, "web-n1", f"http://{address}:8080/hostname") == "restarted-n3"
        cluster.kubectl("delete", "pod", "restarted-n3", "--wait=false")
