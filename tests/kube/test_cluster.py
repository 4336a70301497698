"""weavepy on a real Kubernetes of three nodes.

WEAVEPY_KUBE_PODS=200    how many pods are made and deleted again in the test of what is left
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.kube.cluster import Cluster, condition
from tests.kube.installed import (
    NAMESPACE,
    fetch,
    is_ready,
    pod,
    ready_routers,
    service,
    start_pods,
    status,
    weavepy,
)
from tests.kube.manifest import MANIFEST, objects
from tests.kube.places import wait_for
from tests.kube.services import Services
from tests.kube.upgrades import Upgrades, replace

CHURN = int(os.environ.get("WEAVEPY_KUBE_PODS", "12"))
AT_ONCE = 12

RECLAIMED_WITHIN_S = 10.0
ASKED_FOR = "10.32.5.6"


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> dict[str, str]:
    """A web server on each node, by name, and the address of each."""
    return start_pods(
        cluster,
        *(pod(f"web-{node}", node, labels={"app": "web"}) for node in cluster.nodes),
    )


def attached(cluster: Cluster, node: str) -> set[str]:
    """The pods' interfaces that the kernel has, and those that the router knows, which agree."""
    links = json.loads(cluster.nodes[node].run("ip", "-j", "link", "show", "master", "weave"))
    found = {link["ifname"] for link in links if link.get("link_netnsid") is not None}
    listed = json.loads(weavepy(cluster, node, "ps", "--json"))["attachments"]
    assert found == {one["host_interface"] for one in listed}
    return found


def owners(cluster: Cluster, node: str) -> dict[str, int]:
    """How many addresses each peer has, by name, as this node's router sees it."""
    return {row["peer"]: row["addresses"] for row in status(cluster, node)["ipam"]["owners"]}


def test_all_nodes_are_ready_and_have_a_network(cluster: Cluster) -> None:
    for node in cluster.nodes:
        found = cluster.get("node", node)
        assert condition(found, "Ready") == "True"
        wait_for(
            f"{node} says that its network is there",
            lambda node=node: condition(cluster.get("node", node), "NetworkUnavailable") == "False",
            20,
        )
    rings = {status(cluster, node)["ipam"]["ring_id"] for node in cluster.nodes}
    assert len(rings) == 1, "one first ring, decided by the API server"


def test_the_manifest_passes_kubectls_own_check(cluster: Cluster) -> None:
    said = cluster.kubectl("apply", "--dry-run=client", "-f", str(MANIFEST)).splitlines()
    assert len(said) == len(objects())
    assert all("(dry run)" in line for line in said)


def test_pods_on_all_nodes_reach_each_other(cluster: Cluster, web: dict[str, str]) -> None:
    for name in web:
        for other, address in web.items():
            assert fetch(cluster, name, f"http://{address}:8080/hostname") == other


def test_pods_reach_a_service_whichever_pod_answers_themselves_too(
    cluster: Cluster, web: dict[str, str]
) -> None:
    cluster.apply(service("web", {"app": "web"}))
    address = cluster.get("service", "web")["spec"]["clusterIP"]
    url = f"http://{address}/hostname"
    answered: set[str] = set()
    wait_for(
        "each of them has answered, the asker as well",
        lambda: answered.add(fetch(cluster, "web-n1", url)) or answered == set(web),
        60,
    )


def test_a_pod_reaches_the_api_server_and_a_node_reaches_pods(
    cluster: Cluster, web: dict[str, str]
) -> None:
    answer = cluster.kubectl(
        *("exec", "web-n2", "--", "/usr/bin/agnhost", "connect", "--timeout=5s", "10.96.0.1:443")
    )
    assert answer == ""
    for address in web.values():
        assert cluster.nodes["n1"].run("curl", "-sm5", f"http://{address}:8080/hostname")


def test_the_server_sees_which_pod_asks(cluster: Cluster, web: dict[str, str]) -> None:
    seen = fetch(cluster, "web-n1", f"http://{web['web-n2']}:8080/clientip")
    assert seen.rpartition(":")[0] == web["web-n1"]


class TestServices(Services):
    """In `services`."""


class TestUpgrades(Upgrades):
    """In `upgrades`."""


def test_the_events_of_a_pod_say_why_it_does_not_get_the_address_it_asks_for_until_it_may(
    cluster: Cluster, web: dict[str, str]
) -> None:
    asking = pod("asking", "n2")
    asking["metadata"]["annotations"] = {"weavepy.io/addresses": ASKED_FOR}
    cluster.apply(asking)

    def is_told() -> bool:
        events = cluster.get("events", "--field-selector=involvedObject.name=asking")["items"]
        return any("--allow-requested-addresses" in event["message"] for event in events)

    wait_for("an event names the option", is_told, 60)
    with allowed_on(cluster, "n2"):
        wait_for("kubelet has tried again", lambda: is_ready(cluster, "asking"), 90)
        assert cluster.get("pod", "asking")["status"]["podIP"] == ASKED_FOR
        assert fetch(cluster, "web-n1", f"http://{ASKED_FOR}:8080/hostname") == "asking"
        cluster.kubectl("delete", "pod", "asking", "--force", "--grace-period=0")


@contextlib.contextmanager
def allowed_on(cluster: Cluster, node: str) -> Iterator[None]:
    """Pods may ask for addresses on this node alone, so that no other router is replaced."""

    daemon_set = "-n", NAMESPACE, "ds/weavepy"

    def upgrade_as(strategy: object) -> None:
        patch = json.dumps({"spec": {"updateStrategy": strategy}})
        cluster.kubectl("patch", *daemon_set, "-p", patch)

    def change(setting: str) -> None:
        cluster.kubectl("set", "env", *daemon_set, "-c", "router", setting)
        replace(cluster, "weavepy", node)
        wait_for(f"{node} is Ready", lambda: node in ready_routers(cluster), 60)

    before = cluster.get(*daemon_set)["spec"]["updateStrategy"]
    upgrade_as({"type": "OnDelete", "rollingUpdate": None})
    try:
        change("WEAVEPY_ALLOW_REQUESTED_ADDRESSES=1")
        yield
    finally:
        change("WEAVEPY_ALLOW_REQUESTED_ADDRESSES-")
        upgrade_as(before)


@pytest.mark.timeout(240 + 5 * CHURN)
def test_pods_that_come_and_go_leave_nothing(cluster: Cluster, web: dict[str, str]) -> None:
    nodes = sorted(cluster.nodes)
    before = {}

    def is_quiet(node: str) -> bool:
        before[node] = attached(cluster, node)
        return len(before[node]) == sum(name.endswith(node) for name in web)

    for node in nodes:
        wait_for(f"{node} has only its web server", lambda node=node: is_quiet(node), 90)
    for first in range(0, CHURN, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, CHURN))
        pods = [pod(f"churn-{at}", nodes[at % len(nodes)]) for at in numbers]
        addresses = start_pods(cluster, *pods)
        assert len(set(addresses.values()) | set(web.values())) == len(addresses) + len(web)
        names = [one["metadata"]["name"] for one in pods]
        cluster.kubectl("delete", "pod", *names, "--force", "--grace-period=0")
    for node in nodes:
        wait_for(
            f"nothing is left on {node}",
            lambda node=node: attached(cluster, node) == before[node],
            90,
        )
        assert json.loads(weavepy(cluster, node, "ipam", "check", "--json"))["findings"] == []


def test_a_node_that_dies_and_is_deleted_is_reclaimed_and_comes_back_empty(
    cluster: Cluster, web: dict[str, str]
) -> None:
    peer = status(cluster, "n3")["router"]["name"]
    held = owners(cluster, "n1")
    assert peer in held, "it owns a part of the ring"
    cluster.node_down("n3")
    cluster.kubectl("delete", "node", "n3", "--wait=false")
    deleted_at = time.monotonic()
    for node in ("n1", "n2"):
        wait_for(
            f"{node} knows whose the addresses of n3 are now",
            lambda node=node: peer not in owners(cluster, node),
            RECLAIMED_WITHIN_S,
        )
    print(f"reclaimed {time.monotonic() - deleted_at:.1f} s after the node was deleted")
    assert sum(owners(cluster, "n1").values()) == sum(held.values()), "all of them"

    cluster.node_up("n3")
    cluster.wait_ready("n3")
    wait_for("its router is back", lambda: "n3" in ready_routers(cluster), 90)
    back = status(cluster, "n3")
    assert back["router"]["name"] == peer, "the same router, with its disk"
    assert owners(cluster, "n3") == owners(cluster, "n1")
    start_pods(cluster, pod("again-n3", "n3"))
    assert fetch(cluster, "again-n3", f"http://{web['web-n1']}:8080/hostname") == "web-n1"
    assert is_ready(cluster, "web-n1")
